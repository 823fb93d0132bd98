"""How far a difference could be chance: intervals of 95 %, by the bootstrap over the images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST = 6  # images that must differ, that a difference can be beyond chance
_DRAWS = 2000
_SEED = 0
_BOUNDS = (2.5, 97.5)  # per cent
_BLOCK_BYTES = 64 << 20  # of drawn counts


@dataclass(frozen=True)
class Interval:
    """A value and the bounds that 95 % of the draws are within."""

    value: float
    low: float
    high: float

    def figures(self, name: str) -> dict[str, float]:
        """As figures of the metrics: `name`, `name_low`, `name_high`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}

    @property
    def points(self) -> str:
        """The value in points of a hundred, like `+3.1`."""
        return f"{100 * self.value:+.1f}"

    @property
    def bounds(self) -> str:
        """Like `95 % interval 1.2 to 5.0`."""
        return f"95 % interval {100 * self.low:.1f} to {100 * self.high:.1f}"


def mean_interval(values: NDArray[np.floating] | NDArray[np.bool_]) -> Interval:
    """The mean of a figure over the images that were asked about.

    Images of equal value are alike, so a draw of N images is a count for each value.

    Args:
        values: of each image, [N], at least one.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, sec. 13.3, the percentile interval.
    """
    distinct, counts = np.unique(values.astype(np.float64), return_counts=True)
    num_images, rng = len(values), np.random.default_rng(_SEED)
    at_once = max(1, _BLOCK_BYTES // (8 * len(distinct)))
    means = np.concatenate(
        [
            rng.multinomial(num_images, counts / num_images, size=min(at_once, _DRAWS - start)) @ distinct
            for start in range(0, _DRAWS, at_once)
        ]
    )
    low, high = np.percentile(means / num_images, _BOUNDS)
    return Interval(float(distinct @ counts / num_images), float(low), float(high))


def headline(
    name: str, values: NDArray[np.floating] | NDArray[np.bool_], leaked: NDArray[np.bool_] | None
) -> dict[str, float]:
    """The mean over test images, and what it is without those that stand in the training images too.

    Args:
        name: of the figure.
        values: of each image, [N], at least one.
        leaked: which of them stand there too, [N]; None: it is not known.

    Returns:
        `name`, `name_low`, `name_high`, and `name_without_pairs`, which is left out where nothing is left.
    """
    clean = values[:0] if leaked is None else values[~leaked]
    without = {f"{name}_without_pairs": float(clean.mean())} if len(clean) else {}
    return mean_interval(values).figures(name) | without


def paired_gain(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Interval:
    """What accuracy gained on the same images, as a fraction.

    An image is better, as good or worse, so a draw of N images with replacement is one of three counts, and
    the 2,000 draws cost no memory.

    The bootstrap knows only what it has seen: of two images that are both better it draws no worse one. So
    where fewer than six images differ, the interval holds 0 whatever they say: that five agree, chance does
    once in 16 (a sign test, two-sided).

    Args:
        before: whether each image was right, [N], at least one.
        after: likewise, the same images in the same order.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, sec. 13.3, the percentile interval of
    paired differences.
    """
    difference = after.astype(np.int64) - before.astype(np.int64)
    counts = np.array([(difference == step).sum() for step in (-1, 0, 1)])
    drawn = np.random.default_rng(_SEED).multinomial(len(difference), counts / counts.sum(), size=_DRAWS)
    gains = (drawn[:, 2] - drawn[:, 0]) / len(difference)
    low, high = np.percentile(gains, _BOUNDS)
    if counts[0] + counts[2] < FEWEST:
        low, high = min(low, 0.0), max(high, 0.0)
    return Interval(float(difference.mean()), float(low), float(high))
