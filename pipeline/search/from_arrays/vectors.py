"""Embeddings in .npy files, read as an index holds them: float32, of length 1, a chunk at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError

# N rows, D dimensions

_BLOCK = 1 << 19  # numbers that are looked at together: 4 MiB
_AS_IT_IS = 1e-5  # what is so near to length 1 is left as it is: another division would change its last bits
_BY_ROUNDING = 1e-3  # so far from length 1 a rounding to float16 can lead


@dataclass(frozen=True)
class _Block:
    """Some rows.

    Attributes:
        first: the number of the first.
        given: as the file has them, [n, D].
        unit: of length 1, float64 [n, D]; no numbers where a row has no direction.
        largest: of each row's absolute values, [n].
        lengths: [n].
    """

    first: int
    given: NDArray[Any]
    unit: NDArray[np.float64]
    largest: NDArray[np.float64]
    lengths: NDArray[np.float64]


class VectorFile:
    """The rows of a .npy file, float32 [N, D], each of length 1; see `pipeline.search.rows.Rows`.

    The file holds float16, float32 or float64 of any length: what is read of it is converted then.

    Attributes:
        path: of the file.
        shape: N and D.

    Args:
        path: of the file, which is memory-mapped.
        on_read: is told how many rows are read, of those that are read in order.

    Raises:
        UserError: there is none, or it is no such array.
    """

    def __init__(self, path: Path, on_read: Callable[[int], None] = lambda count: None) -> None:
        self.path = path
        self._on_read = on_read
        self._rows = _mapped(path)
        self._is_ready = False
        self.shape: tuple[int, ...] = self._rows.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> NDArray[np.float32]:
        given = self._rows[rows]
        if isinstance(rows, slice):
            self._on_read(len(given))
        if self._is_ready:
            return np.asarray(given)
        made = np.empty(given.shape, dtype=np.float32)
        for block in _blocks(given):
            here = slice(block.first, block.first + len(block.given))
            is_unit = np.abs(block.lengths - 1) <= _AS_IT_IS
            made[here] = np.where(is_unit[:, None], block.given, block.unit)
        return made

    def check(self) -> int:
        """Reads all rows, and counts those that are not of length 1.

        Raises:
            UserError: a row has no direction.
        """
        num_others = num_changed = 0
        for block in _blocks(self._rows):
            for is_wrong, what in (
                (~np.isfinite(block.largest), "is not finite"),
                (block.largest == 0, "is zero, and has no direction"),
            ):
                if is_wrong.any():
                    row = block.first + int(np.argmax(is_wrong))
                    raise UserError(f"{self.path}: row {row} {what}: leave it out, or embed it again")
            off = np.abs(block.lengths - 1)
            num_others += int((off > _BY_ROUNDING).sum())
            num_changed += int((off > _AS_IT_IS).sum())
            self._on_read(len(block.given))
        self._is_ready = num_changed == 0 and self._rows.dtype == np.float32
        return num_others


def _mapped(path: Path) -> NDArray[Any]:
    if path.is_dir():
        raise UserError(f"{path}: a folder: name its .npy files")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    try:
        with np.errstate(over="raise"):  # its header may claim anything
            rows = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError, ArithmeticError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200] or "it is cut short"
        raise UserError(f"{path}: not a whole .npy array ({reason})") from None
    if rows.dtype.kind != "f" or rows.dtype.itemsize > 8:
        raise UserError(f"{path}: holds {rows.dtype}: embeddings are float16, float32 or float64")
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise UserError(f"{path}: is {list(rows.shape)}: embeddings are [N, D], a row an image")
    if len(rows) == 0:
        raise UserError(f"{path}: has no rows: leave it out")
    return rows


def _blocks(given: NDArray[Any]) -> Iterator[_Block]:
    size = max(1, _BLOCK // given.shape[1])
    for first in range(0, len(given), size):
        some = np.asarray(given[first : first + size])
        unit = some.astype(np.float64)
        largest = np.abs(unit).max(axis=1)
        # scaled, so that no square is beyond what a number can be
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            unit /= largest[:, None]
            lengths = np.sqrt(np.einsum("nd,nd->n", unit, unit))
            unit /= lengths[:, None]
            yield _Block(first, some, unit, largest, largest * lengths)
