"""Writes that are whole or not at all: a file or a folder appears under its name in one move.

Who reads meanwhile sees the old one or the new one, whole. A process that is killed, at whatever step, leaves
one of the two, and the next write clears up after it.
"""

import contextlib
import ctypes
import errno
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import MachineError

# renameat2(2)
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NOT_HERE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # the kernel or the file system has no such move


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` if the block succeeds, else removes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_files(path)
    while True:
        partial = _partial(path)
        file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        fcntl.flock(file, fcntl.LOCK_EX)  # whose lock is gone is nobody's
        if _is_found(file, partial):
            break
        os.close(file)  # another writer took it for a dead one's before it was locked
    try:
        yield partial
        _flush_to_disk(partial)
        partial.replace(path)
        _flush_to_disk(path.parent)
    finally:
        partial.unlink(missing_ok=True)
        os.close(file)


@contextmanager
def atomic_folder(path: Path, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Yields an empty temporary folder beside `path`; it takes the place of `path` if the block succeeds.

    Files of an earlier run do not survive in it, so a folder never mixes two runs.

    Args:
        path: of the folder.
        check: called when the block is done, before the move; where it raises, nothing is moved.

    Raises:
        MachineError: another process is writing this folder.
    """
    place = path.resolve()  # of a folder that was moved to another disk, and linked
    place.parent.mkdir(parents=True, exist_ok=True)
    with lock(path):
        recover(place)
        for stale in _partials(place):  # of runs that were killed: the lock is ours
            _remove_folder(stale)
        partial = _partial(place)
        partial.mkdir()
        try:
            yield partial
            check()
            for file in [*partial.rglob("*"), partial]:
                _flush_to_disk(file)
            _swap(partial, place)
        finally:
            _remove_folder(partial)  # what was not finished, or what the new one replaced
            recover(place)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Only one process at a time writes `path`; the lock dies with its process.

    Raises:
        MachineError: another one does; the message says which.
    """
    lock_file = _lock_file(path.resolve())
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            if (owner := writer(path)) is None:
                continue  # it has just ended, or not yet said who it is
            raise MachineError(
                f"{path}: process {owner} is writing it: wait until it ends, or stop it"
            ) from None
        if _is_found(file, lock_file):
            break
        os.close(file)  # who had it before took the name away with it: nobody else would find this lock
    try:
        os.ftruncate(file, 0)
        os.write(file, str(os.getpid()).encode())
        yield
    finally:
        lock_file.unlink(missing_ok=True)
        os.close(file)


def writer(path: Path) -> int | None:
    """The process that is writing `path` now, or None."""
    try:
        file = os.open(_lock_file(path.resolve()), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(file, 32)
        return int(owner) if owner.isdigit() else None
    finally:
        os.close(file)
    return None


def is_between_names(path: Path) -> bool:
    """Whether a folder is being replaced by two renames: the old one put away, or the new one there."""
    place = path.resolve()
    return _previous(place).exists() or place.exists()


def recover(path: Path) -> None:
    """Puts back a folder whose swap was cut short between two renames; for who has its lock."""
    previous = _previous(path)
    if previous.exists() and not path.exists():
        previous.rename(path)
    shutil.rmtree(previous, ignore_errors=True)


def recover_if_free(path: Path) -> None:
    """For who reads `path`: puts it back, if its swap was cut short and nobody is at it now."""
    path = path.resolve()
    if not path.exists() and _previous(path).exists():
        with (
            contextlib.suppress(MachineError, OSError),
            lock(path),
        ):  # who writes it recovers it; or read-only
            recover(path)


def _swap(partial: Path, path: Path) -> None:
    """`partial`, whole, takes the place of `path`; what stood there is removed."""
    if not path.exists():
        partial.rename(path)
    elif not _exchange(partial, path):
        # no such move here: for a moment nothing stands under the name, and `recover` knows what to put there
        previous = _previous(path)
        path.rename(previous)
        partial.rename(path)
        shutil.rmtree(previous)
    _flush_to_disk(path.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Two folders swap their names in one move; False where the system has none."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_HERE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _remove_folder(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.chmod(0o700)  # one that its owner may not write into would stay for good
    shutil.rmtree(path, ignore_errors=True)


def _clear_files(path: Path) -> None:
    """Removes what writers of this file left that were killed: it is locked by none."""
    for stale in _partials(path):
        try:
            file = os.open(stale, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # it has just been given its name
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_found(file, stale):
                stale.unlink()
        except BlockingIOError:
            pass
        finally:
            os.close(file)


def _is_found(file: int, path: Path) -> bool:
    """Whether an open file is the one that stands under this name."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def _partials(path: Path) -> Iterator[Path]:
    return path.parent.glob(f".{glob.escape(path.name)}.*.partial")


def _previous(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _lock_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _flush_to_disk(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
