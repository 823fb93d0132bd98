"""What a person is told when something goes wrong: one plain line and the right exit code."""

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT
from types import FrameType
from typing import NoReturn

# The modules of the extra `train`, which a search does without.
TRAINING_STACK = (
    *("dvc", "dvclive", "jinja2", "mlxtend", "onnx", "onnxscript", "openTSNE"),
    *("safetensors", "sklearn", "threadpoolctl", "timm", "torch", "torchvision", "vl_convert"),
)

EXIT_FAULT = 1
EXIT_MISTAKE = 2
EXIT_BY_SIGNAL = 128  # and the number of the signal, as shells count

_INTERRUPTED = "interrupted; what stood before is untouched, the same command starts again"
_COMMAND = "lookalike"


class UserError(ValueError):
    """A person's mistake. The message says what, where, the rule and the mend; exit code 2."""


class SettingError(UserError):
    """A value of params.yaml that is well-formed, and cannot be had.

    Attributes:
        key: dotted.
        reason: the value, the rule and the mend.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"params.yaml: {key}: {reason}")
        self.key, self.reason = key, reason


class DamagedError(UserError):
    """An output of the chain, or a copy of one, is not what it should be."""


class NotFiniteError(UserError):
    """A training's loss or features are no longer numbers: its learning rate is too high."""


class MachineError(RuntimeError):
    """The machine cannot do what was asked (no GPU, disk full, no network); exit code 1."""


class StoppedError(RuntimeError):
    """A signal asked the work to end, and it ended in order; exit code 128 + its number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


def needs_training_stack(module: str) -> str:
    """What a person is told who has installed what searches, and asks for what trains."""
    return f"{module} is not installed, which this needs: pip install 'lookalike[train]'"


def missing_output(path: Path, made_by: str) -> UserError:
    """That an output of the chain is not there, and which stage makes it."""
    return UserError(f"{path}: missing, stage '{made_by}' makes it: run 'dvc repro {made_by}'")


def existing(path: Path, made_by: str) -> Path:
    """The path itself, where there is a file.

    Raises:
        UserError: there is none; the message names the stage that makes it.
    """
    if not path.exists():
        raise missing_output(path, made_by)
    return path


def damaged_output(path: Path, what_is_wrong: str, made_by: str) -> DamagedError:
    """That an output of the chain is not what it should be, and how it is made anew."""
    return DamagedError(f"{path}: {what_is_wrong}: run 'dvc repro --force {made_by}'")


# What an operating system's refusal means and what mends it.
_OS_MENDS = {
    errno.ENOSPC: "the disk is full: free some space and run the command again",
    errno.EFBIG: "larger than a file may be here: raise the limit (ulimit -f) or choose another folder",
    errno.EDQUOT: "the disk quota is used up: free some space and run the command again",
    errno.EACCES: "no permission: check the owner and the mode of the file and its folder",
    errno.EPERM: "not permitted: check the owner and the mode of the file and its folder",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENOENT: "no such file or folder",
}


def say_on_stderr(message: str) -> None:
    """The one line that a person is told."""
    print(f"error: {message}", file=sys.stderr)


def leave_on_ctrl_c() -> None:
    """Until `plain_errors` begins, Ctrl-C ends this process at once, in its line and with 130.

    For who is about to import what takes seconds: nothing has begun, and there is nobody yet to catch an
    exception, which libraries swallow or wrap as they are imported. Only where the process is a stage or the
    command itself, not where somebody imports one, and not where Ctrl-C is ignored.
    """
    is_ours = Path(sys.argv[0]).stem in ("-m", _COMMAND)  # `-m` while Python looks for the module
    if is_ours and signal.getsignal(SIGINT) is signal.default_int_handler:
        signal.signal(SIGINT, _leave_at_once)


def _leave_at_once(_: int, __: FrameType | None) -> NoReturn:
    say_on_stderr(_INTERRUPTED)
    os._exit(EXIT_BY_SIGNAL + SIGINT)


@contextmanager
def plain_errors(say: Callable[[str], None] = say_on_stderr) -> Iterator[None]:
    """Turns the errors that a person can act on into one line on stderr and an exit code.

    A `UserError` exits with 2; a `MachineError`, an `OSError` (disk full, no permission), a memory that is
    full or a package of the training stack that is not installed with 1; Ctrl-C with 130. Anything else is
    a bug and keeps its traceback.

    Args:
        say: is given the line.
    """

    def leave(message: str, code: int) -> NoReturn:
        say(message)
        sys.exit(code)

    if signal.getsignal(SIGINT) is _leave_at_once:
        signal.signal(SIGINT, signal.default_int_handler)
    try:
        yield
    except UserError as error:
        leave(str(error), EXIT_MISTAKE)
    except MachineError as error:
        leave(str(error), EXIT_FAULT)
    except StoppedError as error:
        leave(str(error), EXIT_BY_SIGNAL + error.signal_number)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in TRAINING_STACK:
            raise
        leave(needs_training_stack(module), EXIT_FAULT)
    except BrokenPipeError:
        # `lookalike query ... | head`: the reader left; there is no one to tell.
        sys.stderr.close()
        sys.exit(EXIT_FAULT)
    except MemoryError:
        leave("this machine's memory is full: end other programs, or ask for less", EXIT_FAULT)
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        leave(where + _OS_MENDS.get(error.errno or 0, error.strerror or str(error)), EXIT_FAULT)
    except KeyboardInterrupt:
        leave(_INTERRUPTED, EXIT_BY_SIGNAL + SIGINT)
