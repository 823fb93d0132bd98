"""Arrays in files: read by the page, filled in place, never loaded whole."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import damaged_output, existing

_ROWS_AT_ONCE = 256


def read_array(path: Path, made_by: str) -> NDArray[Any]:
    """A memory-mapped .npy file.

    Raises:
        UserError: the file is missing, cut short or no array.
    """
    existing(path, made_by)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except (ValueError, EOFError) as error:
        raise damaged_output(path, f"not a whole array ({error})", made_by) from None


def create_array(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    """A new .npy file to be filled through the memory map that is returned.

    Raises:
        OSError: the disk has no room for all of it. Its space is taken now: a page of a map that finds the
            disk full later would kill the process without a word.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with path.open("rb+") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def compact_array(path: Path, kept: NDArray[np.bool_]) -> None:
    """Takes rows out of a .npy file, in place and in the memory of a few rows.

    Args:
        path: of an array [N, ...]; removed where no row is kept.
        kept: whether each row stays, [N].
    """
    if kept.all():
        return
    rows = np.flatnonzero(kept)
    if len(rows) == 0:
        path.unlink()
        return
    array = np.lib.format.open_memmap(path, mode="r+")
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        moved = rows[start : start + _ROWS_AT_ONCE]  # never before where they go to
        array[start : start + len(moved)] = array[moved]
    array.flush()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": (len(rows), *array.shape[1:])}
    row_bytes = array[0].nbytes
    with path.open("rb+") as file:
        np.lib.format.write_array_header_1_0(file, header)
        # NumPy leaves room in the header for the number of rows to change
        assert file.tell() == array.offset
        file.truncate(array.offset + len(rows) * row_bytes)


def slices(count: int, at_once: int = 1 << 16) -> Iterator[slice]:
    """Parts of so many rows at most, which together are all rows from 0 to `count`."""
    return (slice(start, min(count, start + at_once)) for start in range(0, count, at_once))


class Stacked:
    """Arrays [N0, ...], [N1, ...], ... read as one [N0 + N1 + ..., ...], none of them loaded whole."""

    def __init__(self, parts: Sequence[NDArray[Any]]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[Any]:
        """The rows in the order asked for, [len(rows), ...], copied."""
        if len(self._parts) == 1:
            return np.asarray(self._parts[0][rows])
        chosen = np.empty((len(rows), *self._parts[0].shape[1:]), dtype=self._parts[0].dtype)
        for part, end in zip(self._parts, self._ends, strict=True):
            here = (rows < end) & (rows >= end - len(part))
            chosen[here] = part[rows[here] - (end - len(part))]
        return chosen


class Picked:
    """Some rows of another, by their places among the picked ones; read when they are asked for."""

    def __init__(self, rows: Stacked, picked: NDArray[np.int64]) -> None:
        self._rows, self._picked = rows, picked

    def __len__(self) -> int:
        return len(self._picked)

    def __getitem__(self, places: NDArray[np.int64], /) -> NDArray[Any]:
        """[len(places), ...], copied."""
        return self._rows[self._picked[places]]
