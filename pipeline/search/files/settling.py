"""An index folder that is replaced while it is opened is opened again: no answer mixes two generations."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pipeline.atomic import is_between_names, writer
from pipeline.errors import UserError

# DVC replaces the files of a folder that it checks out one by one
_SETTLED_AFTER_S = 2.0
_PATIENCE_S = 20.0

_Opened = TypeVar("_Opened")


def of_one_generation(path: Path, open_: Callable[[], _Opened]) -> _Opened:
    """Opens again what was replaced while it was opened, so that no answer mixes two generations.

    A stage exchanges the whole folder at once. DVC, where it checks one out, replaces one file after the
    other: what does not belong together is looked at again until nothing has moved for two seconds.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        before = identity(path)
        try:
            opened = open_()
        except (UserError, FileNotFoundError):
            moved = identity(path) != before
            if not (moved or _is_settling(path)) or time.monotonic() > deadline:
                if not path.exists() and (process := writer(path)) is not None:
                    raise UserError(
                        f"{path}: process {process} is making it: ask again when it is there"
                    ) from None
                raise
            time.sleep(0.05)
            continue
        if identity(path) == before:
            return opened


def identity(path: Path) -> list[tuple[int, int, int]] | None:
    """What another folder has not, nor this one once a file of it was replaced."""
    try:
        found = [entry.stat() for entry in (path, *sorted(path.iterdir()))]
    except (FileNotFoundError, NotADirectoryError):
        return None
    # the time of change, which nobody can set: twice replaced, a folder may have its number again
    return [(status.st_dev, status.st_ino, status.st_ctime_ns) for status in found]


def _is_settling(path: Path) -> bool:
    """Whether the folder or a file in it has just been given its name or its bytes, or is about to be."""
    try:
        changed = max(entry.stat().st_ctime for entry in (path, *path.iterdir()))
    except FileNotFoundError:
        return is_between_names(path)
    except NotADirectoryError:
        return False
    return time.time() - changed < _SETTLED_AFTER_S
