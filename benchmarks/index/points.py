"""Made-up embeddings with the structure of real ones: clusters of very different sizes."""

import numpy as np
from numpy.typing import NDArray

NUM_CLUSTERS = 1000
_NOISE = 0.6  # of a point around its cluster's centre, in lengths of the centre
_AT_ONCE = 50_000


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
    rng = np.random.default_rng([1, seed])
    clusters = rng.choice(num_clusters, count, p=sizes / sizes.sum())
    points = np.empty((count, dim), dtype=np.float32)
    for start in range(0, count, _AT_ONCE):
        block = points[start : start + _AT_ONCE]
        block[:] = centres[clusters[start : start + len(block)]]
        block += _NOISE / np.sqrt(dim) * rng.standard_normal(block.shape, dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return points
