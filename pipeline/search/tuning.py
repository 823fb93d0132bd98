"""An approximate index is made as thorough as the recall asked for, and no slower."""

from collections.abc import Mapping, Sequence

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.search.rows import Rows, chunks

# Q queries, D dimensions

# What trades speed for recall, by the kind of index; doubled until the recall is reached, or all it can be.
_SEARCH_PARAMETERS = ("nprobe", "efSearch")
_SEARCH_PARAMETER_LIMIT = 4096


def tune(
    index: faiss.Index, queries: NDArray[np.float32], truth: NDArray[np.int64], target_recall: float
) -> tuple[dict[str, int], float]:
    """Raises the index's search parameter until the recall is reached.

    Args:
        index: built; it keeps the parameter that is found.
        queries: [Q, D], of images that are not in the index.
        truth: ids of their exact nearest among those that are, [Q, k].
        target_recall: of the k nearest.

    Returns:
        The parameter's name and value (nothing for an index that has none), and the recall.
    """
    tunable = [name for name in _SEARCH_PARAMETERS if _accepts(index, name)]
    if not tunable:
        return {}, recall(index, queries, truth)
    most = _most(index, tunable[0])
    value = 1
    while True:
        set_search_parameters(index, {tunable[0]: value})
        reached = recall(index, queries, truth)
        if reached >= target_recall or value >= most:
            return {tunable[0]: value}, reached
        value = min(2 * value, most)


def _most(index: faiss.Index, name: str) -> int:
    """Where more is no more thorough: of an inverted file, all of its lists."""
    inverted = faiss.try_extract_index_ivf(index) if name == "nprobe" else None
    return _SEARCH_PARAMETER_LIMIT if inverted is None else min(inverted.nlist, _SEARCH_PARAMETER_LIMIT)


def recall(index: faiss.Index, queries: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    """The share of `truth`, ids [Q, k], that the index finds among its own k nearest of `queries`, [Q, D].

    Of no queries, or among no images, nothing is missed: 1.
    """
    if truth.size == 0:
        return 1.0
    _, found = index.search(queries, truth.shape[1])
    hits = (found[:, :, None] == truth[:, None, :]).any(axis=1)
    return float(hits.mean())


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
        [Q, k], from the nearest on; of equals the smaller id first.
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


def set_search_parameters(index: faiss.Index, parameters: Mapping[str, int]) -> None:
    """Sets parameters like nprobe by name."""
    for name, value in parameters.items():
        faiss.ParameterSpace().set_index_parameter(index, name, value)


def _accepts(index: faiss.Index, name: str) -> bool:
    try:
        set_search_parameters(index, {name: 1})
    except RuntimeError:
        return False
    return True
