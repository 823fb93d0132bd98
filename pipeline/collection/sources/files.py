"""The files of a folder, links and all, in one order on every machine."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.params.dataset import Dataset


@dataclass(frozen=True, slots=True)
class Found:
    """A file, or something that is called like one.

    Attributes:
        name: relative to the folder, with slashes; bytes that are no UTF-8 as surrogates.
        path: where it is.
        num_bytes: its size.
        problem: why it cannot be read, or nothing.
    """

    name: str
    path: Path
    num_bytes: int
    problem: str | None = None


def source_path(params: Dataset) -> Path:
    """`dataset.path`, with `~` as the home folder.

    Raises:
        UserError: there is nothing, or nobody whose home it could be in.
    """
    try:
        path = Path(params.path or "").expanduser()
    except RuntimeError:
        raise UserError(
            f"params.yaml: dataset.path: {params.path!r} names no known home folder: write it in full"
        ) from None
    if not path.exists():
        raise UserError(f"{path}: no such file or folder: check dataset.path in params.yaml")
    return path


def walk(folder: Path, suffixes: frozenset[str]) -> Iterator[Found]:
    """Every file below a folder whose name has one of the suffixes, sorted by the bytes of its name.

    Links are followed, but not into a folder that the walk is already in. Hidden files and folders (a dot
    before the name) and `__MACOSX` are passed over. A folder that may not be listed is yielded as a problem.

    Args:
        folder: where to look.
        suffixes: in lower case, with the dot.
    """
    yield from _walk(folder, "", suffixes, frozenset())


def is_hidden(name: str) -> bool:
    """Whether a part of the path is hidden, or is what macOS packs beside a file."""
    return any(
        (part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in name.split("/")
    )


def has_suffix(name: str, suffixes: frozenset[str]) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes  # noqa: PTH122 (a million names, no Path each)


def _walk(
    folder: Path, prefix: str, suffixes: frozenset[str], around: frozenset[tuple[int, int]]
) -> Iterator[Found]:
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        yield Found(prefix.rstrip("/"), folder, 0, error.strerror or type(error).__name__)
        return
    around |= {(status.st_dev, status.st_ino)}
    for entry in entries:
        name, path = prefix + entry.name, Path(entry.path)
        if is_hidden(entry.name):
            continue
        try:
            status = entry.stat()
        except OSError as error:
            if has_suffix(name, suffixes):
                is_broken = entry.is_symlink() and isinstance(error, FileNotFoundError)
                yield Found(name, path, 0, "broken link" if is_broken else error.strerror)
            continue
        if stat.S_ISDIR(status.st_mode):
            if (status.st_dev, status.st_ino) not in around:
                yield from _walk(path, f"{name}/", suffixes, around)
        elif has_suffix(name, suffixes):
            # a pipe would be waited for until somebody writes to it
            problem = None if stat.S_ISREG(status.st_mode) else "not a regular file"
            yield Found(name, path, status.st_size, problem)
