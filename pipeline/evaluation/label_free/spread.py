"""How far features spread over the sphere: measures that ask for no labels."""

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.knn import normalize


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
