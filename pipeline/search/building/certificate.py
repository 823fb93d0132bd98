"""How sure a measured recall is: an interval over the queries that measured it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RECALL_AT = 10  # neighbours, of which recall is the share that is found
_Z = 1.959964  # of the normal distribution, for 95 %


@dataclass(frozen=True)
class Recall:
    """A share of true neighbours that were found, and its 95 % interval.

    Attributes:
        mean: over all queries.
        low: of the interval; so is `high`.
    """

    mean: float
    low: float
    high: float


EXACT_RECALL = Recall(1.0, 1.0, 1.0)  # of a search that misses nothing
UNKNOWN = Recall(1.0, 0.0, 1.0)  # nobody asked: nothing was missed, and nothing is known


def recall_of(
    found: NDArray[np.int64], truth: NDArray[np.int64], as_near: NDArray[np.bool_] | None = None
) -> Recall:
    """The recall of an answer, with its interval.

    The neighbours of one query are missed together, so they do not count as so many independent draws: the
    interval is Wilson's for a share, of as many draws as would have the variance that is seen between the
    queries. Where all queries have the same share that variance says nothing, and each query counts once.

    Args:
        found: ids, [Q, k]; -1 where there was none.
        truth: ids of the exact nearest, [Q, k].
        as_near: which of those found are as near as the last of these, [Q, k]: copies of one image are.

    Returns:
        Of no queries, or among no images, `UNKNOWN`.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference"; the effective
        number of draws: Kish 1965, "Survey Sampling"; both together: Dean and Pagano 2015, "Evaluating
        confidence interval methods for binomial proportions in clustered surveys".
    """
    if truth.size == 0:
        return UNKNOWN
    is_right = (found[:, :, None] == truth[:, None, :]).any(axis=2)
    if as_near is not None:
        is_right |= as_near
    shares = is_right.sum(axis=1) / truth.shape[1]
    mean, num_queries = float(shares.mean()), len(shares)
    draws = float(num_queries)
    variance = float(shares.var(ddof=1)) if num_queries > 1 else 0.0
    if variance > 0:
        draws = min(mean * (1 - mean) * num_queries / variance, float(truth.size))
    centre = (mean + _Z**2 / (2 * draws)) / (1 + _Z**2 / draws)
    half = _Z / (1 + _Z**2 / draws) * np.sqrt(mean * (1 - mean) / draws + _Z**2 / (4 * draws**2))
    return Recall(mean, float(max(centre - half, 0.0)), float(min(centre + half, 1.0)))
