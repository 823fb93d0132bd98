"""Images that come up in everybody's search: the hubs of an index."""

import numpy as np
from numpy.typing import NDArray


def hubness(neighbors: NDArray[np.integer]) -> dict[str, float]:
    """How unevenly the images of an index are found, when each of them asks for its nearest.

    Args:
        neighbors: rows of the nearest others of each image, [N, k]; -1 where an index found no more.

    Returns:
        `largest_share`: of all images, those that have the most popular one among their k nearest;
        `most_returned`: how many that is; `never_returned`: the share of images that nobody has among them;
        `hubness_skewness`: of the counts, 0 where all are found alike (Radovanovic et al. 2010, Hubs in
        Space, sec. 2.2).
    """
    num_images = len(neighbors)
    counts = np.zeros(num_images, dtype=np.int64)
    for of_rank in neighbors.T:  # all ranks at once would take ten times the memory
        counts += np.bincount(of_rank[of_rank >= 0], minlength=num_images)
    deviations = counts - counts.mean()
    scale = deviations.std()
    return {
        "largest_share": float(counts.max() / num_images),
        "most_returned": int(counts.max()),
        "never_returned": float((counts == 0).mean()),
        "hubness_skewness": float((deviations**3).mean() / scale**3) if scale else 0.0,
    }
