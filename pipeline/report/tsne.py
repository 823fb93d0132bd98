"""The map's layout: embeddings of many dimensions on a plane, near ones near, the same in every run."""

import os

import numpy as np
from numpy.typing import NDArray
from openTSNE import TSNE
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

_PERPLEXITY = 30.0  # neighbours that a point keeps near; fewer where there are few points
_FEWEST = 8  # points; t-SNE has nothing to say of fewer
_DIMENSIONS = 50  # that are looked at, as in van der Maaten and Hinton 2008, sec. 4.2
_STEPS = (250, 500)  # exaggerated ones, that groups find each other, and those after them
_ANGLE = 0.8  # of Barnes and Hut: 10 s of a processor for 5,000 points, and 15 s at 0.5 for as good a map


def layout(embeddings: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Points of a t-SNE, the same on any number of threads.

    Args:
        embeddings: [N, D].
        seed: of the optimisation.

    Returns:
        float32 [N, 2], from 0 to 1, with the same scale in both directions.

    Source: van der Maaten and Hinton 2008, Visualizing Data using t-SNE.
    """
    with threadpool_limits(1):  # a sum over threads ends in another last digit each time
        reduced = _reduced(embeddings, seed)
    return _in_unit_square(_points(reduced, seed))


def clusters(embeddings: NDArray[np.float32], num: int, seed: int) -> NDArray[np.int64]:
    """The cluster of each point by k-means, [N]; cluster 0 is the largest, at most `num` of them."""
    num = min(num, len(np.unique(embeddings, axis=0)))
    with threadpool_limits(1):
        found = KMeans(num, n_init=1, random_state=seed).fit_predict(embeddings)
    sizes = np.bincount(found, minlength=num)
    rank = np.empty(num, dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(num)
    ranked: NDArray[np.int64] = rank[found]
    return ranked


def _reduced(embeddings: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """Their principal components, at least two, those without any spread zero."""
    centered = embeddings.astype(np.float64) - embeddings.mean(axis=0, dtype=np.float64)
    if not centered.any():
        return np.zeros((len(embeddings), 2))
    num = min(_DIMENSIONS, *embeddings.shape)
    reduced = PCA(num, svd_solver="full", random_state=seed).fit_transform(centered)
    return np.pad(reduced, ((0, 0), (0, max(0, 2 - num))))


def _points(reduced: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    start = reduced[:, :2]
    if len(reduced) < _FEWEST or not start.any():
        return start
    tsne = TSNE(
        perplexity=min(_PERPLEXITY, (len(reduced) - 1) / 3),
        initialization=1e-4 * start / start[:, 0].std(),
        negative_gradient_method="bh",
        theta=_ANGLE,
        early_exaggeration_iter=_STEPS[0],
        n_iter=_STEPS[1],
        neighbors="exact",
        n_jobs=_num_threads(),
        random_state=seed,
    )
    return np.asarray(tsne.fit(reduced), dtype=np.float64)


def _num_threads() -> int:
    """As OpenMP would have it: openTSNE asks nobody, and two on one core wait for each other."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # `4,2` is of two levels
    if asked.isdigit() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_unit_square(points: NDArray[np.float64]) -> NDArray[np.float32]:
    low, high = points.min(axis=0), points.max(axis=0)
    size = float((high - low).max())
    if size == 0:
        return np.full(points.shape, 0.5, dtype=np.float32)
    placed: NDArray[np.float32] = (0.5 + (points - (low + high) / 2) / size).astype(np.float32)
    return placed
