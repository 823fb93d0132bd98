"""What a distance costs in each kind of index, in distances of an exact search of many queries at once.

    python -m benchmarks.index.work
    python -m benchmarks.index.work --vectors 200000 --dimensions 128,512

Each kind answers the same queries while it reads more and more lists, of two lengths, and ranks more and more
anew; what a centroid, a list, a distance cost is the slope of the seconds over FAISS's own counts, by least
squares that are not negative.
The constants of pipeline/search/building/cost.py are the medians of what this prints.
"""

import argparse
import time
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from benchmarks.index.points import clustered
from pipeline.search.building.build import Centroids, build_index
from pipeline.search.building.tuning import knobs
from pipeline.search.finding import search_parameters

K = 10
NONE_HELD_OUT = np.empty(0, dtype=np.int64)
NPROBE, K_FACTORS, EF_SEARCH = (4, 16, 64), (1, 4, 16, 48), (32, 128, 512)


def seconds_of(index: faiss.Index, queries: NDArray[np.float32], parameters: dict[str, int]) -> float:
    """The fastest of three searches."""
    params = search_parameters(index, parameters, among=None)
    took = []
    for _ in range(3):
        started = time.perf_counter()
        index.search(queries, K, params=params)
        took.append(time.perf_counter() - started)
    return min(took)


def counts_of(index: faiss.Index, queries: NDArray[np.float32], parameters: dict[str, int]) -> list[float]:
    """Of a query: centroids, lists that are read, distances in lists or a graph, vectors ranked anew."""
    stats = faiss.cvar
    for each in (stats.indexIVF_stats, stats.hnsw_stats, stats.indexPanorama_stats):
        each.reset()
    index.search(queries, K, params=search_parameters(index, parameters, among=None))
    distances = float(stats.indexIVF_stats.ndis + stats.hnsw_stats.ndis)
    base: Any = faiss.downcast_index(index)
    if stats.indexPanorama_stats.total_dims:
        distances = stats.indexPanorama_stats.total_dims_scanned / base.n_levels
    inverted = faiss.try_extract_index_ivf(index)
    num_centroids = 0 if inverted is None else inverted.nlist
    num_ranked = K * parameters.get("k_factor_rf", 0)
    return [num_centroids, parameters.get("nprobe", 0), distances / len(queries), num_ranked]


def measure(count: int, dim: int, num_queries: int) -> None:
    """Prints a line a kind."""
    vectors, queries = clustered(count, dim, seed=0), clustered(num_queries, dim, seed=1)
    lists = int(2 ** round(np.log2(2 * np.sqrt(count))))
    exact = build_index([vectors], "Flat", 0, NONE_HELD_OUT)
    unit = seconds_of(exact, queries, {}) / num_queries / count
    print(
        f"{count:,} x {dim}, {lists} and {4 * lists} lists; an exact distance: {1e9 * unit:.2f} ns",
        flush=True,
    )
    centroids = Centroids()
    for kind in (
        "Flat",
        "FlatPanorama8",
        "SQ8",
        "SQ8,RFlat",
        f"PQ{dim // 2}x4fs,RFlat",
        "RaBitQfs,RFlat",
        "HNSW32",
    ):
        is_graph = kind.startswith("HNSW")
        part = vectors[: count // 4] if is_graph else vectors
        rows, seconds = [], []
        for factory in [kind] if is_graph else [f"IVF{each},{kind}" for each in (lists, 4 * lists)]:
            index = build_index([part], factory, 0, NONE_HELD_OUT, centroids)
            for parameters in _settings(index):
                rows.append(counts_of(index, queries, parameters))
                seconds.append(seconds_of(index, queries, parameters) / num_queries)
        weights = 1 / np.array(seconds)  # the relative error counts
        slopes, _ = nnls(np.array(rows) * weights[:, None], np.ones(len(rows)))
        errors = np.array(rows) @ slopes * weights - 1
        centroid, of_list, distance, ranked = slopes / unit
        print(
            f"{kind:14}  a centroid {centroid:5.2f}  a list {of_list:5.0f}  a distance {distance:6.2f}  "
            f"ranked anew {ranked:6.1f}  off by {100 * np.median(abs(errors)):.0f} %",
            flush=True,
        )


def _settings(index: faiss.Index) -> list[dict[str, int]]:
    """Parameters to measure with."""
    names = list(knobs(index))
    return [
        dict(zip(names, (first, second), strict=False))
        for first in (EF_SEARCH if names[0] == "efSearch" else NPROBE)
        for second in (K_FACTORS if len(names) > 1 else (0,))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--dimensions", default="128,512", help="with commas")
    parser.add_argument("--queries", type=int, default=1000)
    asked = parser.parse_args()
    for dim in asked.dimensions.split(","):
        measure(asked.vectors, int(dim), asked.queries)


if __name__ == "__main__":
    main()
