"""Embeddings that lie in several places, read as the rows of one: some of them, or all in chunks."""

import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

_BYTES_AT_ONCE = 16 << 20  # of rows that are read together: with 64 and 256 MiB no pass was faster


class Rows(Protocol):
    """Embeddings, float32 [N, D]: an array, a memory map, or what an index gives back."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> NDArray[np.float32]: ...


class KeepsNoEmbeddingsError(RuntimeError):
    """An index of this kind does not give back what was added to it."""


class Stored:
    """The embeddings of an index by their place in it, as it holds them: of compressed codes, decoded.

    May be asked by several threads at once.
    """

    def __init__(self, index: faiss.Index) -> None:
        self._index = index
        self._lock = threading.Lock()
        self._is_ready = False
        self.shape: tuple[int, ...] = (index.ntotal, index.d)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> NDArray[np.float32]:
        """The embeddings at these places, [n, D], copied.

        Raises:
            KeepsNoEmbeddingsError: an index of this kind gives none back.
        """
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)), dtype=np.int64)
        self._get_ready()
        if len(rows) == 0:
            return np.empty((0, self.shape[1]), dtype=np.float32)
        try:
            return np.asarray(self._index.reconstruct_batch(np.ascontiguousarray(rows)), dtype=np.float32)
        except RuntimeError as error:
            raise KeepsNoEmbeddingsError(str(error)) from None

    def _get_ready(self) -> None:
        with self._lock:
            keeps_vectors_beside = isinstance(self._index, faiss.IndexRefine)
            ready = self._is_ready or keeps_vectors_beside
            inverted = None if ready else faiss.try_extract_index_ivf(self._index)
            if inverted is not None:
                if isinstance(faiss.downcast_index(inverted), faiss.IndexIVFFastScan):
                    raise KeepsNoEmbeddingsError("FAISS 1.15 ends the process there")
                inverted.make_direct_map()  # where each place lies
            self._is_ready = True


class Chosen:
    """Some rows of others, in the order of their numbers."""

    def __init__(self, rows: Rows, chosen: NDArray[np.int64]) -> None:
        self._rows, self._chosen = rows, chosen
        self.shape: tuple[int, ...] = (len(chosen), rows.shape[1])

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> NDArray[np.float32]:
        """Rows by their number among the chosen, [n, D]."""
        return self._rows[self._chosen[rows]]


def sample_rows(count: int, size: int, seed: int) -> NDArray[np.int64]:
    """Some of the rows from 0 to `count`, drawn without replacement, sorted, [size]."""
    return np.sort(np.random.default_rng(seed).choice(count, size, replace=False))


def read_rows(parts: Sequence[Rows], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows, sorted, of all parts of [N, D], copied, [len(rows), D]; beside them a chunk is in memory."""
    made = np.empty((len(rows), parts[0].shape[1]), dtype=np.float32)
    at_once, first = rows_at_once(parts), 0
    for part in parts:
        begin, end = np.searchsorted(rows, [first, first + len(part)])
        for start in range(begin, end, at_once):
            here = slice(start, min(start + at_once, end))
            made[here] = part[rows[here] - first]
        first += len(part)
    return made


def chunks(parts: Sequence[Rows]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """All rows of all parts in their order, a chunk at a time: the number of its first row, and [n, D]."""
    at_once, first = rows_at_once(parts), 0
    for part in parts:
        for start in range(0, len(part), at_once):
            rows = np.ascontiguousarray(part[start : start + at_once])
            yield first, rows
            first += len(rows)


def rows_at_once(parts: Sequence[Rows]) -> int:
    """How many rows of parts of [N, D] each are read together, at least one."""
    return max(1, _BYTES_AT_ONCE // (4 * parts[0].shape[1])) if parts else 1
