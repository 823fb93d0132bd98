"""The nearest of some images by exact search, in NumPy: a page needs no index and no torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Q queries, N images, D embedding

_BLOCK = 1 << 14  # rows compared at once
_COLUMNS = 1 << 10  # of these looked through at once
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
    for start in range(0, len(queries) if k else 0, _QUERIES):
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
    best = np.full((len(queries), k), -np.inf, dtype=np.float32)
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    first = 0
    for bank in banks:
        for start in range(0, len(bank), _BLOCK):
            block = bank[start : start + _BLOCK]
            found = queries @ block.T
            if itself is not None:
                here = np.flatnonzero((itself >= first) & (itself < first + len(block)))
                found[here, itself[here] - first] = -np.inf
            for column in range(0, len(block), _COLUMNS):
                _take_better(best, rows, found[:, column : column + _COLUMNS], first + column)
            first += len(block)
    return best, rows


def _take_better(
    best: NDArray[np.float32], rows: NDArray[np.int64], found: NDArray[np.float32], first: int
) -> None:
    """Puts what is nearer than the last of a query's best among these, in place; of equals the first stays.

    Soon hardly anything is: so a bank of a million rows costs a comparison each, and no sorting.

    Args:
        best: cosines from the largest down, [Q, k].
        rows: theirs, [Q, k].
        found: cosines of rows that follow each other, [Q, n].
        first: the number of the first of these rows.
    """
    asked, columns = np.nonzero(found > best[:, -1:])
    if not len(asked):
        return
    k, changed = best.shape[1], np.unique(asked)
    query = np.concatenate([np.repeat(changed, k), asked])
    cosine = np.concatenate([best[changed].ravel(), found[asked, columns]])
    row = np.concatenate([rows[changed].ravel(), first + columns])
    order = np.lexsort((row, -cosine, query))
    _, starts = np.unique(query[order], return_index=True)
    kept = order[starts[:, None] + np.arange(k)]
    best[changed], rows[changed] = cosine[kept], row[kept]
