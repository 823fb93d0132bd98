"""What every protocol is given, features with their classes, and what it gives."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# figure -> value: fractions from 0 to 1, counts, yes or no; `recall` has a fraction a class
Scores = dict[str, float | dict[str, float]]


@dataclass(frozen=True)
class Labelled:
    """Features of labelled images: float32 [N, D], and their classes [N]."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
