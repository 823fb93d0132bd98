"""One plain line on stderr, and the exit code of who is at fault."""

import errno
import os

import pytest

from pipeline.errors import MachineError, UserError, plain_errors


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("k is 0"), 2, "error: k is 0"),
        (MachineError("no CUDA device"), 1, "error: no CUDA device"),
        (OSError(errno.ENOSPC, "x", "a.npy"), 1, "error: a.npy: the disk is full: free some space"),
        (PermissionError(errno.EACCES, "x", "a.npy"), 1, "error: a.npy: no permission"),
        (OSError(errno.EROFS, "x", "a.npy"), 1, "error: a.npy: the file system is read-only"),
        (OSError(errno.EIO, os.strerror(errno.EIO), "a.npy"), 1, "error: a.npy: Input/output error"),
        (OSError("FAISS cannot write it"), 1, "error: FAISS cannot write it"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
    ],
)
def test_an_error_is_one_line_and_a_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left, plain_errors():
        raise error
    assert left.value.code == code
    stderr = capsys.readouterr().err
    assert stderr.startswith(line)
    assert stderr.count("\n") == 1


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), plain_errors():
        _ = 1 / 0
