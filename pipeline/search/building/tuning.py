"""An approximate index is made as thorough as the recall asked for, and no more: tuned, then certified."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import slices
from pipeline.search.building.certificate import Recall, recall_of
from pipeline.search.building.cost import counted_search
from pipeline.search.rows import Rows, read_rows, rows_at_once

# Q queries, D dimensions

# What trades speed for recall, and where more is no use: how many lists are read, how far a graph is
# followed, and how many times k are ranked anew by what is kept beside the codes.
_REFINING = "k_factor_rf"
_AT_MOST = {"nprobe": 65536, "efSearch": 4096, _REFINING: 64}
# The values are about 2**(1/4) apart: so what is chosen is at most so much more than what is needed.
_STEPS = tuple(sorted({round(2 ** (step / 4)) for step in range(67)}))
_EQUAL = 1e-6  # similarities of copies differ by so much at most, in whichever order they are summed
_STEPS_ABOVE = 8  # the tuned values, where the certificate begins
_STEPS_BELOW = 8  # what holds, which the curve still shows


@dataclass(frozen=True)
class Point:
    """What an index reaches with some parameters.

    Attributes:
        parameters: FAISS's own names, like nprobe.
        recall: of the k nearest, with its interval.
        work: of a query, in distances of an exact search.
    """

    parameters: dict[str, int]
    recall: Recall
    work: float

    def reaches(self, target_recall: float) -> bool:
        """Whether the lower end of the interval does."""
        return self.recall.low >= target_recall

    def order(self, target_recall: float) -> tuple[bool, float]:
        """Sorts points: first what reaches the target, by the least work; then what finds the most."""
        reached = self.reaches(target_recall)
        return not reached, self.work if reached else -self.recall.mean


@dataclass(frozen=True)
class Certified:
    """What an index surely reaches.

    Attributes:
        point: the least work of which the interval's lower end reaches the target; where none does, the most
            thorough.
        curve: all that was measured, from the most work down.
    """

    point: Point
    curve: list[Point]


@dataclass(frozen=True)
class Asked:
    """Queries and what is right.

    Attributes:
        queries: of images that are not in the index, or not found in it, [Q, D].
        truth: ids of their exact nearest among those that are, [Q, k].
        among: which ids are found, [N]; None: all that are in the index.
        k_of_whole: neighbours that are asked of the collection, where the index is of a sample of it.
        vectors: what ids are of, parts of [N, D]; None: nothing is as near as what is in `truth`.
    """

    queries: NDArray[np.float32]
    truth: NDArray[np.int64]
    among: NDArray[np.bool_] | None = None
    k_of_whole: int | None = None
    vectors: Sequence[Rows] | None = None

    def halves(self) -> tuple["Asked", "Asked"]:
        """Every other query, and the others: one to tune with, one to measure what was tuned."""
        one, other = (
            replace(self, queries=self.queries[first::2], truth=self.truth[first::2]) for first in (0, 1)
        )
        return one, other

    def as_near(self, found: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of those found, [Q, k], are as near as the last in `truth`, and not in it.

        Of twenty copies of an image any ten are its nearest, whichever of them an exact search names.
        """
        missed = (found >= 0) & ~(found[:, :, None] == self.truth[:, None, :]).any(axis=2)
        as_near: NDArray[np.bool_] = np.zeros(found.shape, dtype=np.bool_)
        if self.vectors is not None and missed.any():
            asked = np.nonzero(missed)[0]
            as_near[missed] = self._similarities(asked, found[missed]) >= self._least[asked] - _EQUAL
        return as_near

    @cached_property
    def _least(self) -> NDArray[np.float32]:
        """The similarity of the last in `truth`, [Q]."""
        return self._similarities(np.arange(len(self.truth)), self.truth[:, -1])

    def _similarities(self, asked: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Of each of these queries and the vector of an id beside it; of both a chunk is in memory."""
        assert self.vectors is not None
        similarities = np.empty(len(ids), dtype=np.float32)
        order = np.argsort(ids, kind="stable")  # as they are read
        for part in slices(len(ids), rows_at_once(self.vectors)):
            here = order[part]
            vectors = read_rows(self.vectors, ids[here])
            similarities[here] = np.einsum("qd,qd->q", self.queries[asked[here]], vectors)
        return similarities


def tune(index: faiss.Index, asked: Asked, target_recall: float, too_much: float = math.inf) -> Point:
    """The least work with which the lower end of the recall's interval reaches a target.

    Of an index that ranks anew, both parameters are moved: from the most that is ranked anew down, with just
    as many lists as each needs; recall grows with both, so no other pair can be the best.

    Args:
        index: built.
        asked: at least one query.
        target_recall: of the k nearest.
        too_much: work beyond which it is not tuned.

    Returns:
        The best point; where none reaches the target, the one of those tried that finds the most.
    """
    values = knobs(index)
    if not values:
        return measure(index, asked, {})
    thorough = next(iter(values))
    ranked_anew = values.get(_REFINING, []) if thorough != _REFINING else []
    ends, least, step = [], too_much, 0
    for ranked in reversed(ranked_anew) if ranked_anew else [None]:
        beside = {} if ranked is None else {_REFINING: ranked}
        while True:
            point = measure(index, asked, {thorough: values[thorough][step]} | beside)
            reached, is_last = point.reaches(target_recall), step + 1 == len(values[thorough])
            if reached or is_last or point.work >= least:
                break  # more lists are more work
            step += 1
        ends.append(point)
        if reached:
            least = min(least, point.work)
        elif is_last:
            break  # and less ranked anew finds less
    return min(ends, key=lambda point: point.order(target_recall))


def certify(index: faiss.Index, asked: Asked, target_recall: float, tuned: Point) -> Certified:
    """Measures a tuned index with other queries, and finds the least work that surely reaches the target.

    From well above the tuned parameters down, until the lower end of an interval falls below the target: a
    sequence of tests whose order is fixed before they are made, so that the interval of the last that holds
    is as sure as one alone, though several were asked.

    Args:
        index: that was tuned.
        asked: other queries than it was tuned with.
        target_recall: of the k nearest.
        tuned: what `tune` found.

    Source: Angelopoulos et al. 2021, "Learn then test", arXiv:2110.01052: fixed sequence testing.
    """
    values = knobs(index)
    curve: list[Point] = []
    certified: Point | None = None
    holds, num_below = True, 0
    for offset in range(_STEPS_ABOVE, -len(_STEPS), -1):
        parameters = {name: _moved(values[name], value, offset) for name, value in tuned.parameters.items()}
        if curve and parameters == curve[-1].parameters:
            continue  # an end of the values
        point = measure(index, asked, parameters)
        curve.append(point)
        holds = holds and point.reaches(target_recall)
        if holds:
            certified = point
        num_below += not holds
        if num_below > _STEPS_BELOW:
            break
    return Certified(certified or curve[0], curve)


def measure(index: faiss.Index, asked: Asked, parameters: Mapping[str, int]) -> Point:
    """What the index reaches with these parameters."""
    k = asked.truth.shape[1]
    found, work = counted_search(index, asked.queries, k, parameters, asked.among, asked.k_of_whole)
    return Point(dict(parameters), recall_of(found, asked.truth, asked.as_near(found)), work)


def knobs(index: faiss.Index) -> dict[str, list[int]]:
    """The parameters that trade speed for recall, and their values, ascending; none of some kinds."""
    inverted = faiss.try_extract_index_ivf(index)
    found = {}
    for name, most in _AT_MOST.items():
        if name == "nprobe" and inverted is not None:
            most = min(most, inverted.nlist)  # all of its lists
        if _accepts(index, name):
            found[name] = [value for value in _STEPS if value < most] + [most]
    return found


def set_search_parameters(index: faiss.Index, parameters: Mapping[str, int]) -> None:
    """Sets parameters like nprobe by name."""
    for name, value in parameters.items():
        faiss.ParameterSpace().set_index_parameter(index, name, value)


def _moved(values: Sequence[int], value: int, offset: int) -> int:
    """The value so many steps further, or the last that there is."""
    return values[min(max(values.index(value) + offset, 0), len(values) - 1)]


def _accepts(index: faiss.Index, name: str) -> bool:
    try:
        set_search_parameters(index, {name: 1})
    except RuntimeError:
        return False
    return True
