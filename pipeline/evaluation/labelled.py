"""What every protocol is given, features with their classes, and what it gives."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# figure -> value: fractions from 0 to 1, counts, yes or no; `recall` has a fraction a class
Scores = dict[str, float | dict[str, float]]


# what is predicted of an image that no class is
NOTHING = -1


@dataclass(frozen=True)
class Answers:
    """What a classifier said of Q images.

    Attributes:
        predicted: the class that it puts first, int64 [Q]; -1 where it has none.
        ranks: how many classes it puts before the right one, int64 [Q]: 0 is a right answer, below 5 one
            among the five best, and as many as there are classes where the right one has no score.
    """

    predicted: NDArray[np.int64]
    ranks: NDArray[np.int64]


@dataclass(frozen=True)
class Outcomes:
    """What a protocol said of the test images that it asked about, [Q] each.

    Attributes:
        rows: of the test images.
        predicted: the label of the class that it puts first; -1 where it has none.
        correct: whether that is the right one.
    """

    rows: NDArray[np.int64]
    predicted: NDArray[np.int64]
    correct: NDArray[np.bool_]


class Rows(Protocol):
    """Features, float32 [N, D], of which some rows at a time are read: an array, or what lies in files."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Labelled:
    """Features of labelled images.

    Attributes:
        features: float32 [N, D].
        labels: their classes, int64 [N].
        contents: equal numbers are equal files, int64 [N]; None where no two are.
        leaked: of test images, which ones stand in the training images too, [N]; None where nobody looked.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    contents: NDArray[np.int64] | None = None
    leaked: NDArray[np.bool_] | None = None

    def leaked_of(self, rows: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """`leaked` of some rows."""
        return None if self.leaked is None else self.leaked[rows]
