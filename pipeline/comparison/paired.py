"""Two runs on the images that both were asked about, image by image."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.comparison.answered import PROTOCOLS, Answered
from pipeline.errors import UserError
from pipeline.evaluation.intervals import FEWEST, Interval, paired_gain


@dataclass(frozen=True)
class Paired:
    """One protocol on the same images in both runs.

    Attributes:
        num_images: that both answered.
        a: top-1 of A, a fraction; and of B.
        b: likewise.
        gain: what B has right more than A, a fraction.
        num_decided: images that one of the two alone has right.
    """

    num_images: int
    a: float
    b: float
    gain: Interval
    num_decided: int

    @property
    def better(self) -> str | None:
        """`A` or `B` where the difference is beyond chance, else None."""
        if self.gain.low <= 0 <= self.gain.high:
            return None
        return "B" if self.gain.value > 0 else "A"


@dataclass(frozen=True)
class Comparison:
    """Two runs, A and B.

    Attributes:
        names: of A and of B.
        num_images: test images of A and of B.
        num_common: of them, those that are the same in both.
        protocols: each that both have, in the order in which the verdict is taken from them.
        by: the one that the verdict is by.
        warnings: what makes the two less alike than their images, a sentence each.
    """

    names: tuple[str, str]
    num_images: tuple[int, int]
    num_common: int
    protocols: dict[str, Paired]
    by: str
    warnings: list[str]


def compare(a: Answered, b: Answered, by: str | None = None) -> Comparison:
    """Compares two runs on their common test images; equal images are known by their sha256.

    Args:
        a: one run.
        b: the other; a gain is its.
        by: the protocol that the verdict is by; None: kNN, else linear, else retrieval.

    Raises:
        UserError: too few images or no protocol are common.
    """
    common = _common(a, b)
    same = common[common["class_name_a"] == common["class_name_b"]]
    warnings = [*_sets_differ(a, b, len(common)), *_classes_differ(len(common), len(same))]
    if len(same) < FEWEST:
        raise UserError(
            f"A ({a.name}) and B ({b.name}) have {len(same)} test images with the same class in common, of "
            f"{len(a.images):,} and {len(b.images):,}: of fewer than {FEWEST} no difference is beyond chance"
        )
    protocols = {}
    for protocol in PROTOCOLS:
        if protocol in a.correct and protocol in b.correct:
            paired = _paired(a.correct[protocol], b.correct[protocol], same)
            if paired is not None:
                protocols[protocol] = paired
                continue
        if protocol in a.correct or protocol in b.correct:
            warnings.append(f"{protocol} is left out: fewer than {FEWEST} images have it in both")
    if by is None and not protocols:
        raise UserError(f"A ({a.name}) and B ({b.name}) were scored by no common protocol: {_which(a, b)}")
    if by is not None and by not in protocols:
        raise UserError(f"--by: {by} was not scored in both: {_which(a, b)}")
    return Comparison(
        names=(a.name, b.name),
        num_images=(len(a.images), len(b.images)),
        num_common=len(common),
        protocols=protocols,
        by=by or next(iter(protocols)),
        warnings=warnings,
    )


def _common(a: Answered, b: Answered) -> pd.DataFrame:
    """A row a common image: id_a, id_b, class_name_a, class_name_b. Of copies the first meets the first.

    Raises:
        UserError: there is none.
    """
    tables = [run.images.reset_index(names="id") for run in (a, b)]
    common = tables[0].merge(tables[1], on=["sha256", "copy"], suffixes=("_a", "_b"))
    if common.empty:
        raise UserError(
            f"A ({a.name}) and B ({b.name}) have no test image in common, of {len(a.images):,} and "
            f"{len(b.images):,} (by sha256): only runs on the same images can be compared"
        )
    return common


def _paired(a: "pd.Series[bool]", b: "pd.Series[bool]", same: pd.DataFrame) -> Paired | None:
    """One protocol on these images; None where too few of them have it in both."""
    both = same[same["id_a"].isin(a.index) & same["id_b"].isin(b.index)]
    if len(both) < FEWEST:
        return None
    right_a = a.loc[both["id_a"]].to_numpy(dtype=bool)
    right_b = b.loc[both["id_b"]].to_numpy(dtype=bool)
    return Paired(
        num_images=len(both),
        a=float(right_a.mean()),
        b=float(right_b.mean()),
        gain=_gain(right_a, right_b),
        num_decided=int((right_a != right_b).sum()),
    )


def _gain(right_a: NDArray[np.bool_], right_b: NDArray[np.bool_]) -> Interval:
    """B's over A: drawn as the better one's, so that A and B exchanged give the same bounds."""
    if right_b.sum() < right_a.sum():
        return turned(paired_gain(right_b, right_a))
    return paired_gain(right_a, right_b)


def turned(gain: Interval) -> Interval:
    """The same as the other one's."""
    return Interval(-gain.value, -gain.high, -gain.low)


def _sets_differ(a: Answered, b: Answered, num_common: int) -> list[str]:
    found = []
    alone = [(name, len(run.images) - num_common) for name, run in (("A", a), ("B", b))]
    if any(number for _, number in alone):
        only = " and ".join(f"{number:,} in {name} alone" for name, number in alone if number)
        found.append(f"the test images differ: {only} are left out")
    if a.seen != b.seen:
        found.append(
            f"the training images differ: {len(a.seen):,} and {len(b.seen):,}, of which "
            f"{len(a.seen & b.seen):,} are the same; a difference may come from there"
        )
    return found


def _classes_differ(num_common: int, num_same: int) -> list[str]:
    if num_common == num_same:
        return []
    return [f"{num_common - num_same:,} images have another class in each and are left out"]


def _which(a: Answered, b: Answered) -> str:
    return f"A has {', '.join(a.correct)}, B has {', '.join(b.correct)}"
