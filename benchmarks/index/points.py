"""Made-up embeddings with the structure of real ones: clusters of very different sizes, each nearly flat."""

import numpy as np
from numpy.typing import NDArray

NUM_CLUSTERS = 1000
# Of a point around its cluster's centre, in lengths of the centre: along directions of the cluster's own,
# each shorter than the one before, and what is left in all the others. So the ten nearest of a point spread
# in 16 dimensions (the median of Levina and Bickel's estimate, 2004). Those of real embeddings: 7 of the
# digits, 15 of CIFAR-10 by `cifar10-short`.
_SPREAD = 0.6
_DIRECTIONS = 24
_REST = 0.06


def clustered(count: int, dim: int, seed: int, num_clusters: int = NUM_CLUSTERS) -> NDArray[np.float32]:
    """Points on the sphere around the same centres for every seed.

    Args:
        count: of the points.
        dim: of the sphere's space.
        seed: of the points; those of another are new images of the same collection.
        num_clusters: whose sizes follow a power law.

    Returns:
        float32 [count, dim], of length 1.
    """
    of_all = np.random.default_rng(0)
    centres = of_all.standard_normal((num_clusters, dim)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    sizes = of_all.pareto(2, num_clusters) + 0.3
    lengths = 1 / np.sqrt(np.arange(1, min(_DIRECTIONS, dim) + 1), dtype=np.float32)
    lengths *= _SPREAD / np.linalg.norm(lengths) / np.sqrt(dim)
    rng = np.random.default_rng([1, seed])
    clusters = rng.choice(num_clusters, count, p=sizes / sizes.sum())
    by_cluster = np.split(np.argsort(clusters, kind="stable"), np.bincount(clusters).cumsum()[:-1])
    points = np.empty((count, dim), dtype=np.float32)
    for cluster, rows in enumerate(by_cluster):
        directions = of_all.standard_normal((len(lengths), dim), dtype=np.float32) * lengths[:, None]
        some = rng.standard_normal((len(rows), len(lengths)), dtype=np.float32) @ directions
        some += _REST / np.sqrt(dim) * rng.standard_normal((len(rows), dim), dtype=np.float32)
        some += centres[cluster]
        points[rows] = some / np.linalg.norm(some, axis=1, keepdims=True)
    return points
