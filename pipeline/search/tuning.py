"""An approximate index is made as thorough as the recall asked for, and no slower."""

from collections.abc import Mapping, Sequence

import faiss
import numpy as np
from numpy.typing import NDArray

# Q queries, D dimensions

# What trades speed for recall, by the kind of index; doubled until the recall is reached.
_SEARCH_PARAMETERS = ("nprobe", "efSearch")
_SEARCH_PARAMETER_LIMIT = 4096


def tune(
    index: faiss.Index, queries: NDArray[np.float32], truth: NDArray[np.int64], target_recall: float
) -> tuple[dict[str, int], float]:
    """Raises the index's search parameter until the recall is reached.

    Args:
        index: built; it keeps the parameter that is found.
        queries: [Q, D].
        truth: ids of their exact nearest, [Q, k].
        target_recall: of the k nearest.

    Returns:
        The parameter's name and value (nothing for an index that has none), and the recall.
    """
    tunable = [name for name in _SEARCH_PARAMETERS if _accepts(index, name)]
    if not tunable:
        return {}, recall(index, queries, truth)
    value = 1
    while True:
        set_search_parameters(index, {tunable[0]: value})
        reached = recall(index, queries, truth)
        if reached >= target_recall or value >= _SEARCH_PARAMETER_LIMIT:
            return {tunable[0]: value}, reached
        value *= 2


def recall(index: faiss.Index, queries: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    """The share of `truth`, ids [Q, k], that the index finds among its own k nearest of `queries`, [Q, D]."""
    _, found = index.search(queries, truth.shape[1])
    hits = (found[:, :, None] == truth[:, None, :]).any(axis=1)
    return float(hits.mean())


def exact_neighbors(
    embeddings: Sequence[NDArray[np.float32]], queries: NDArray[np.float32], k: int
) -> NDArray[np.int64]:
    """Ids of the k largest inner products over all parts, [Q, k]."""
    exact = faiss.IndexFlatIP(embeddings[0].shape[1])
    for part in embeddings:
        exact.add(np.ascontiguousarray(part))
    _, ids = exact.search(queries, k)
    return np.asarray(ids, dtype=np.int64)


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
