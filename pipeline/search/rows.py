"""Embeddings that lie in several arrays, read as the rows of one: some of them, or all in chunks."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 100_000  # of 512 dimensions, 200 MB


def sample_rows(count: int, size: int, seed: int) -> NDArray[np.int64]:
    """Some of the rows from 0 to `count`, drawn without replacement, sorted, [size]."""
    return np.sort(np.random.default_rng(seed).choice(count, size, replace=False))


def read_rows(parts: Sequence[NDArray[np.float32]], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows, sorted, of all parts of [N, D], copied, [len(rows), D]."""
    ends = np.cumsum([len(part) for part in parts])
    chosen = [
        part[rows[(rows >= end - len(part)) & (rows < end)] - (end - len(part))]
        for part, end in zip(parts, ends, strict=True)
    ]
    return np.ascontiguousarray(np.concatenate(chosen))


def chunks(parts: Sequence[NDArray[np.float32]]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """All rows of all parts in their order, a chunk at a time: the number of its first row, and [n, D]."""
    first = 0
    for part in parts:
        for start in range(0, len(part), _AT_ONCE):
            rows = np.ascontiguousarray(part[start : start + _AT_ONCE])
            yield first, rows
            first += len(rows)
