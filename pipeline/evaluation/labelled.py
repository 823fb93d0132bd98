"""What every protocol is given, features with their classes, and what it gives."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = dict[str, float]  # figure -> value, a fraction from 0 to 1


@dataclass(frozen=True)
class Labelled:
    """Features of labelled images: float32 [N, D], and their classes [N]."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
