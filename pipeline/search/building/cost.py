"""What an index costs: the work of a search, and the bytes of a vector.

The work is what FAISS counts, each count times what one costs. It is not a clock: equal data count equally,
so what is chosen by it is chosen again.
"""

from collections.abc import Mapping
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.search.finding import search_parameters

# Q queries, D dimensions

# What each costs, in distances of an exact search of many queries at once, which are products of matrices
# (2.5 ns in 128 dimensions, 5.4 in 512). Medians of `python -m benchmarks.index.work`, 200,000 x 128 and
# x 512, two cores of an AMD EPYC with AVX-512.
_EXACT = 1.0
CENTROID = 1.4  # and a heap of the nearest
_GRAPH = 27.0  # a vector somewhere in memory
_REFINED = 32.0  # likewise, and a heap that is longer by it
# of an inverted file: to begin with a list, and a distance in it
_OF_A_LIST: dict[Any, tuple[float, float]] = {
    faiss.IndexIVFFlatPanorama: (368.0, 13.0),  # of those dimensions that were looked at
    faiss.IndexIVFFlat: (156.0, 9.2),
    faiss.IndexIVFScalarQuantizer: (165.0, 3.5),
    faiss.IndexIVFPQFastScan: (71.0, 0.49),
    faiss.IndexIVFRaBitQFastScan: (358.0, 0.75),
    faiss.IndexIVFRaBitQ: (358.0, 0.75),
}


def counted_search(
    index: faiss.Index,
    queries: NDArray[np.float32],
    k: int,
    parameters: Mapping[str, int],
    among: NDArray[np.bool_] | None = None,
    k_of_whole: int | None = None,
) -> tuple[NDArray[np.int64], float]:
    """Searches, and counts what that takes.

    FAISS keeps its counts for the whole process: nothing else may search meanwhile.

    Args:
        index: any.
        queries: [Q, D], Q > 0.
        k: wanted of each.
        parameters: of the search, like nprobe.
        among: which ids may be found, [N]; None: all.
        k_of_whole: wanted of the whole that an index of a sample stands for; as many are ranked anew for it.

    Returns:
        The ids that were found, [Q, k], -1 where there was none; and the work of one query, in distances of
        an exact search.
    """
    kinds: Any = faiss  # whose type stubs lack these
    counts = kinds.cvar
    for each in (counts.indexIVF_stats, counts.hnsw_stats, counts.indexPanorama_stats):
        each.reset()
    _, ids = index.search(queries, k, params=search_parameters(index, parameters, among))
    total = _total(index, len(queries), parameters, counts)
    if "k_factor_rf" in parameters:
        total += _REFINED * (k_of_whole or k) * parameters["k_factor_rf"] * len(queries)
    return np.asarray(ids), total / len(queries)


def bytes_per_vector(index: faiss.Index) -> float:
    """What an index holds of each vector: codes, ids and links; centroids and codebooks stand apart."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexIDMap):
        return 8 + bytes_per_vector(index.index)
    if isinstance(index, faiss.IndexPreTransform):
        return bytes_per_vector(index.index)
    if isinstance(index, faiss.IndexRefine):
        return bytes_per_vector(index.base_index) + bytes_per_vector(index.refine_index)
    if isinstance(index, faiss.IndexHNSW):
        graph: Any = index.hnsw
        return float(4 * graph.neighbors.size() / max(index.ntotal, 1)) + bytes_per_vector(index.storage)
    if isinstance(index, faiss.IndexIVF):
        return float(8 + index.code_size)
    return float(index.sa_code_size())


def _total(index: faiss.Index, num_queries: int, parameters: Mapping[str, int], counts: Any) -> float:
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexIDMap | faiss.IndexPreTransform):
        return _total(index.index, num_queries, parameters, counts)
    if isinstance(index, faiss.IndexRefine):
        return _total(index.base_index, num_queries, parameters, counts)
    if isinstance(index, faiss.IndexHNSW):
        return _GRAPH * float(counts.hnsw_stats.ndis)
    if isinstance(index, faiss.IndexIVF):
        return _of_lists(index, num_queries, parameters.get("nprobe", index.nprobe), counts)
    if isinstance(index, faiss.IndexFlatPanorama):
        return _OF_A_LIST[faiss.IndexIVFFlatPanorama][1] * _of_panorama(index, counts)
    return _EXACT * index.ntotal * num_queries


def _of_panorama(index: Any, counts: Any) -> float:
    """Whole distances: FAISS counts parts of the dimensions."""
    return float(counts.indexPanorama_stats.total_dims_scanned / index.n_levels)


def _of_lists(index: faiss.IndexIVF, num_queries: int, nprobe: int, counts: Any) -> float:
    quantizer = faiss.downcast_index(index.quantizer)
    if isinstance(quantizer, faiss.IndexHNSW):
        coarse = _GRAPH * float(counts.hnsw_stats.ndis)
    else:
        coarse = CENTROID * index.nlist * num_queries
    of_kind = (cost for kind, cost in _OF_A_LIST.items() if isinstance(index, kind))
    a_list, one = next(of_kind, (0.0, _EXACT))
    distances = float(counts.indexIVF_stats.ndis)
    if isinstance(index, faiss.IndexIVFFlatPanorama):
        distances = _of_panorama(index, counts)
    if isinstance(index, faiss.IndexIVFPQFastScan):
        one *= index.M / (index.d / 2)
    return coarse + a_list * nprobe * num_queries + one * distances
