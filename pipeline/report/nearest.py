"""The nearest of some images by exact search, in NumPy: a page needs no index and no torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Q queries, N images, D embedding

_BLOCK = 1 << 14  # rows compared at once
_QUERIES = 1 << 10


def nearest(
    queries: NDArray[np.float32],
    banks: Sequence[NDArray[np.float32]],
    k: int,
    itself: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k with the largest cosine, of banks that are read as one behind the other.

    Args:
        queries: [Q, D], of length 1.
        banks: [N0, D], [N1, D], ..., likewise; memory-mapped ones are read in blocks.
        k: at most so many.
        itself: the row of each query in the banks, [Q], which it does not find; None where it has none.

    Returns:
        Cosines float32 [Q, k] from the largest down, and rows int64 [Q, k]; k is cut to what can be found.
    """
    num_rows = sum(map(len, banks)) - (itself is not None)
    k = min(k, num_rows)
    cosines = np.empty((len(queries), k), dtype=np.float32)
    rows = np.empty((len(queries), k), dtype=np.int64)
    for start in range(0, len(queries), _QUERIES):
        chunk = slice(start, start + _QUERIES)
        own = None if itself is None else itself[chunk]
        cosines[chunk], rows[chunk] = _nearest(queries[chunk], banks, k, own)
    return cosines, rows


def _nearest(
    queries: NDArray[np.float32],
    banks: Sequence[NDArray[np.float32]],
    k: int,
    itself: NDArray[np.int64] | None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    best = np.empty((len(queries), 0), dtype=np.float32)
    rows = np.empty((len(queries), 0), dtype=np.int64)
    first = 0
    for bank in banks:
        for start in range(0, len(bank), _BLOCK):
            block = bank[start : start + _BLOCK]
            found = queries @ block.T
            if itself is not None:
                here = np.flatnonzero((itself >= first) & (itself < first + len(block)))
                found[here, itself[here] - first] = -np.inf
            numbers = np.broadcast_to(np.arange(first, first + len(block)), found.shape)
            best, rows = _best(np.hstack([best, found]), np.hstack([rows, numbers]), k)
            first += len(block)
    order = np.lexsort((rows, -best), axis=1)
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _best(
    cosines: NDArray[np.float32], rows: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    if cosines.shape[1] <= k:
        return cosines, rows
    kept = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
    return np.take_along_axis(cosines, kept, axis=1), np.take_along_axis(rows, kept, axis=1)
