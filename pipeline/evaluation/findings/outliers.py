"""Images that are like none of the others."""

import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import slices
from pipeline.evaluation.findings.table import Finding

_KEPT_SHARE, _FEWEST_KEPT, _MOST_KEPT = 0.01, 20, 1000
_SMALLEST_DEVIATION = 1e-3  # of a distance in float32, rounding is about half of that
_MAD_OF_NORMAL = 1.4826  # standard deviations that a median absolute deviation of 1 is, were it normal


def outliers(
    ids: NDArray[np.int64], neighbors: NDArray[np.integer], cosines: NDArray[np.float32]
) -> list[Finding]:
    """The images farthest from their own nearest: a hundredth of the collection, at least 20, at most 1,000.

    The score is how many deviations the mean distance to the nearest is above the median of all, in units of
    the median absolute deviation, which the outliers themselves hardly move.

    Args:
        ids: of the images, [M].
        neighbors: ids of the nearest others of every image of the collection, [N, k]; -1 where there are no
            more.
        cosines: with these, [N, k].

    Source: Ramaswamy et al. 2000, Efficient Algorithms for Mining Outliers (distance to the k nearest);
    Iglewicz and Hoaglin 1993, How to Detect and Handle Outliers (the modified z-score).
    """
    if neighbors.size == 0:
        return []
    means = np.empty(len(ids))
    for here in slices(len(ids)):
        is_found = neighbors[ids[here]] >= 0
        distances = np.where(is_found, np.sqrt(np.maximum(2 - 2 * cosines[ids[here]], 0)), 0.0)
        means[here] = distances.sum(axis=1) / np.maximum(is_found.sum(axis=1), 1)
    usual = float(np.median(means))
    deviation = _MAD_OF_NORMAL * float(np.median(np.abs(means - usual)))
    if deviation < _SMALLEST_DEVIATION:
        return []
    scores = (means - usual) / deviation
    num_kept = min(_MOST_KEPT, max(_FEWEST_KEPT, round(_KEPT_SHARE * len(means))))
    farthest = np.argsort(-scores, kind="stable")[:num_kept]
    return [
        Finding(
            "outlier",
            (int(ids[row]),),
            float(scores[row]),
            f"its nearest are {means[row]:.2f} away, where {usual:.2f} is usual",
        )
        for row in farthest
        if scores[row] > 0
    ]
