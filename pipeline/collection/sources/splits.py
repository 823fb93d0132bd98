"""Which split an image is of: what its place says, and what is set aside where nothing is to be scored on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import SPLITS, UNLABELLED
from pipeline.collection.sources.collection import choose_test

# What people call the folder or the file of a split, in any case. Validation images are no split of the
# collection: they are the test split where there is no other, else they are left aside.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "unlabelled": "unlabelled",
    "unlabeled": "unlabelled",
}


# a split by its number in `SPLITS`, and behind them what is no split
_PLACES = (*SPLITS, "val")
_TRAIN, _TEST, _UNLABELLED, _VAL = map(_PLACES.index, ("train", "test", "unlabelled", "val"))
_NUMBER = re.compile(r"[-_ ]?\d+$")  # train2017, test1


def split_called(name: str) -> str | None:
    """The value of `SPLIT_NAMES` for a folder that is called like a split, also with a number behind it."""
    return SPLIT_NAMES.get(_NUMBER.sub("", name.lower()))


@dataclass(frozen=True)
class Settled:
    """Splits that hold together.

    Attributes:
        rows: which of the images have a place, in their order, int64 [M].
        splits: of each of these a number in `SPLITS`, int8 [M].
        remarks: what was decided, a line each.
    """

    rows: NDArray[np.int64]
    splits: NDArray[np.int8]
    remarks: tuple[str, ...]


def settle(
    names: Sequence[str],
    places: Sequence[str],
    labels: Sequence[int] | NDArray[np.int64],
    fraction: float,
    seed: int,
) -> Settled:
    """From where images lie to the splits of the collection, the same for folders and for tables.

    - The test split is what is called test, else what is called validation; where labels name classes, only
      if it holds labelled images. Where there is none a part of each class of train becomes one, and without
      labels there is none.
    - Validation images beside a test split are neither learned from nor scored on.
    - Where train holds labelled images, those without a label, of any split, are unlabelled: learned from and
      searched, never scored on.

    Args:
        names: [N], of which a test split is chosen; an image keeps its split while it keeps its name.
        places: [N], values of `SPLIT_NAMES`.
        labels: [N], `UNLABELLED` where there is none.
        fraction: of each class, where the test split is chosen here.
        seed: of that choice.
    """
    places_N = np.fromiter(map(_PLACES.index, places), np.int8, len(places))
    has_label_N = np.array(labels, dtype=np.int64) != UNLABELLED
    has_labels = bool(has_label_N.any())
    counts_N = has_label_N if has_labels else np.ones(len(places), dtype=np.bool_)
    scored = next((place for place in (_TEST, _VAL) if (counts_N & (places_N == place)).any()), None)

    splits_N = places_N.copy()
    splits_N[(places_N == _TEST) | (places_N == _VAL)] = _UNLABELLED
    if scored is not None:
        splits_N[places_N == scored] = _TEST
    if has_labels:
        learns_labels = bool((has_label_N & (places_N == _TRAIN)).any())
        is_moved_N = ~has_label_N & ((splits_N == _TEST) | ((splits_N == _TRAIN) & learns_labels))
        splits_N[is_moved_N] = _UNLABELLED
    is_aside_N = (places_N == _VAL) & (scored == _TEST)
    remarks = []
    if has_labels and scored is None:
        candidates = np.flatnonzero(has_label_N & (places_N == _TRAIN))
        of_candidates = (names[int(row)] for row in candidates)
        chosen = choose_test(of_candidates, np.asarray(labels)[candidates], fraction, seed)
        splits_N[candidates[chosen]] = _TEST
        remarks.append(
            f"{chosen.sum():,} of {len(candidates):,} labelled images are for testing, chosen by dataset.seed"
        )
    moved = int(((splits_N == _UNLABELLED) & (places_N != _UNLABELLED) & ~is_aside_N).sum())
    if moved:
        remarks.append(
            f"{moved:,} images without a label are unlabelled: learned from and searched, never scored on"
        )
    if is_aside_N.any():
        remarks.append(f"{is_aside_N.sum():,} validation images are left aside, since there is a test split")
    placed = np.flatnonzero(~is_aside_N)
    return Settled(placed, splits_N[placed], tuple(remarks))
