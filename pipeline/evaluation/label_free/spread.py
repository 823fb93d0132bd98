"""How far features spread over the sphere: measures that ask for no labels."""

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.knn import normalize

# A mean squared distance of 0.0005 on the sphere: two images are a degree apart, so that every search is a
# lottery. A ResNet-20 of random weights, which no one calls collapsed, has -0.012.
_COLLAPSED_ABOVE = -0.001


def spread(features: NDArray[np.float32]) -> dict[str, float]:
    """Effective rank and uniformity.

    Args:
        features: [N, D], some thousands at most: every pair is compared.

    Returns:
        `effective_rank`: exp of the entropy of the normalised singular values, from 1 (all on one line) to
        min(N, D) (RankMe, Garrido et al. 2022, arXiv:2210.02885, eq. 1); `uniformity`: log of the mean of
        exp(-2 d^2) over pairs at distance d, 0 when all are one point and lower when they spread (Wang and
        Isola 2020, arXiv:2005.10242, eq. 3).
    """
    if not features.any():  # as behind rectifiers that are dead: one point
        return {"effective_rank": 1.0, "uniformity": 0.0}
    unit = normalize(features).astype(np.float64)
    singular = np.linalg.svd(unit, compute_uv=False)
    shares = singular / singular.sum()
    shares = shares[shares > 0]
    cosines = (unit @ unit.T)[np.triu_indices(len(unit), k=1)]
    distances = 2 - 2 * cosines
    return {
        "effective_rank": float(np.exp(-(shares * np.log(shares)).sum())),
        "uniformity": float(np.log(np.exp(-2 * distances).mean())) if len(distances) else 0.0,
    }


def is_collapsed(uniformity: float, num_images: int) -> bool:
    """Whether the features of several images are as good as one point (`uniformity` as `spread` gives it)."""
    return num_images > 1 and uniformity > _COLLAPSED_ABOVE
