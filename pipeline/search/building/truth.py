"""What an exact search answers, over embeddings of which a chunk is in memory at a time."""

from collections.abc import Sequence

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.search.rows import Rows, chunks

# Q queries, D dimensions


def exact_neighbors(
    embeddings: Sequence[Rows],
    queries: NDArray[np.float32],
    k: int,
    left_out: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Ids of the k largest inner products over all parts but for some rows, by exact search.

    Args:
        embeddings: parts of [N, D], of which a chunk is in memory at a time.
        queries: [Q, D].
        k: at most as many as rows are left.
        left_out: rows that are not searched, sorted.

    Returns:
        [Q, k], from the nearest on; of equals the smaller id first. Of those that equal the last, FAISS may
        keep others in other chunks.
    """
    best = np.empty((len(queries), 0), dtype=np.float32)
    ids = np.empty((len(queries), 0), dtype=np.int64)
    for first, rows in chunks(embeddings):
        numbers = np.arange(first, first + len(rows))
        kept = ~np.isin(numbers, left_out)
        if not kept.any():
            continue
        similarities, places = faiss.knn(
            queries, rows[kept], min(k, int(kept.sum())), metric=faiss.METRIC_INNER_PRODUCT
        )
        best = np.concatenate([best, similarities], axis=1)
        ids = np.concatenate([ids, numbers[kept][places]], axis=1)
        order = np.lexsort((ids, -best), axis=1)[:, :k]
        best = np.take_along_axis(best, order, axis=1)
        ids = np.take_along_axis(ids, order, axis=1)
    return ids
