"""Does the encoder hold an image and an augmented view of it together?"""

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.intervals import mean_interval
from pipeline.evaluation.knn import normalize

_ROUNDING = 1e-12  # of a cosine in float64


def view_figures(features: NDArray[np.float32], of_views: NDArray[np.float32]) -> dict[str, float]:
    """Alignment and consistency.

    Args:
        features: of the images as they are, [M, D], some thousands at most: every pair is compared.
        of_views: row i is of an augmented view of image i, [M, D].

    Returns:
        `alignment`: the mean squared distance of an image and its view on the sphere, from 0 to 4 (Wang and
        Isola 2020, arXiv:2005.10242, eq. 2, of an image and one view rather than of two views);
        `consistency`, with its interval's `_low` and `_high`: how often the image is the nearest of all M to
        its own view, where of equally near ones each has its share.
    """
    unit, views = (normalize(each).astype(np.float64) for each in (features, of_views))
    cosines = views @ unit.T
    own = np.diag(cosines)
    nearest = cosines.max(axis=1)
    # equal rows may differ in the last bit of their products
    is_nearest = cosines >= nearest[:, None] - _ROUNDING
    found = np.where(own >= nearest - _ROUNDING, 1 / is_nearest.sum(axis=1), 0.0)
    distances = np.square(unit - views).sum(axis=1)
    return {"alignment": float(distances.mean())} | mean_interval(found).figures("consistency")
