"""A collection to arrays, in flat memory and in the order of the ids; and what became of each image."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.arrays import compact_array, create_array
from pipeline.artifacts import SPLITS
from pipeline.collection.decoding import decode_all
from pipeline.collection.known import KnownImages
from pipeline.collection.sources.collection import Collection, Entry
from pipeline.collection.worker import Job, Place, Read
from pipeline.errors import UserError
from pipeline.params.dataset import Dataset


@dataclass(frozen=True)
class Accepted:
    """One image that stands in the arrays."""

    entry: Entry
    width: int
    height: int
    sha256: str


@dataclass(frozen=True)
class Rejected:
    """One image that could not be read."""

    source: str
    reason: str


@dataclass(frozen=True)
class Ingested:
    """What became of a collection.

    Attributes:
        accepted: the images, by split in the order of `SPLITS`, each in the order of its array.
        rejected: in the order in which the source lists them.
        num_duplicates: images whose bytes stand in an earlier one.
        num_train_test_duplicates: images to learn from whose bytes stand in the test split, kept or not.
        num_known: images whose pixels were taken from where they stood decoded.
    """

    accepted: list[Accepted]
    rejected: list[Rejected]
    num_duplicates: int
    num_train_test_duplicates: int
    num_known: int


def ingest(
    collection: Collection, params: Dataset, folder: Path, known: KnownImages | None = None
) -> Ingested:
    """Writes `{split}.npy`, uint8 [N, size, size, 3], for each split of a collection.

    Every image has its row from the start, so that workers write as they decode; rows that nothing was
    written to are closed up in the end. Images in train and unlabelled whose bytes stand in test are dropped
    where `params.train_test_duplicates` says so.

    Args:
        collection: of a source.
        params: the size, and what is dropped.
        folder: exists and is empty.
        known: images that need no decoding.

    Raises:
        MachineError: the process of an image was killed, most likely for want of memory.
        OSError: the disk has no room.
    """
    entries = collection.entries
    splits = np.array([SPLITS.index(entry.split) for entry in entries], dtype=np.int8)
    rows = np.empty(len(entries), dtype=np.int64)
    for split in range(len(SPLITS)):
        rows[splits == split] = np.arange(np.count_nonzero(splits == split))
    num_rows = {name: int(np.count_nonzero(splits == split)) for split, name in enumerate(SPLITS)}
    paths = {name: folder / f"{name}.npy" for name, count in num_rows.items() if count}
    for name, path in paths.items():
        create_array(path, np.uint8, (num_rows[name], params.image_size, params.image_size, 3))

    outcomes: list[Read | str] = [""] * len(entries)
    places = (
        (number, Place(entries[number].split, int(rows[number]), content))
        for number, content in collection.contents()
    )
    with tqdm(total=len(entries), desc="fetch", unit=" images", disable=None) as bar:
        job = Job(paths, params.image_size, known)
        for number, outcome in decode_all(places, job, lambda number: entries[number].source):
            outcomes[number] = outcome
            bar.update()

    is_read = np.array([isinstance(outcome, Read) for outcome in outcomes], dtype=np.bool_)
    leaked = _leaked(outcomes, is_test=splits == SPLITS.index("test"))
    kept = is_read & ~leaked if params.train_test_duplicates == "drop" else is_read
    for split, name in enumerate(SPLITS):
        if name in paths:
            compact_array(paths[name], kept[splits == split])

    order = [row for split in range(len(SPLITS)) for row in np.flatnonzero(kept & (splits == split)).tolist()]
    return Ingested(
        accepted=[_accepted(entries[row], outcomes[row]) for row in order],
        rejected=[
            Rejected(entry.source, outcome)
            for entry, outcome in zip(entries, outcomes, strict=True)
            if isinstance(outcome, str)
        ],
        num_duplicates=_num_duplicates(outcomes),
        num_train_test_duplicates=int(leaked.sum()),
        num_known=sum(isinstance(outcome, Read) and outcome.was_known for outcome in outcomes),
    )


def check_ingested(ingested: Ingested, total: int, max_rejected: float, listed_in: Path) -> None:
    """Stops where more than the allowed share could not be read, or nothing is left to learn from.

    Args:
        ingested: all of it.
        total: images that the source listed.
        max_rejected: share of them, from 0 to 1.
        listed_in: the file that a person finds the rejected ones in.

    Raises:
        UserError: it is so; the message counts the reasons.
    """
    num_rejected = len(ingested.rejected)
    if num_rejected <= max_rejected * total:
        if any(image.entry.split == "train" for image in ingested.accepted):
            return
        raise UserError(
            f"no training image is left of {total:,} images: {num_rejected:,} cannot be read, "
            f"{ingested.num_train_test_duplicates:,} stand in the test split too: check dataset.path in "
            "params.yaml, or set dataset.train_test_duplicates to keep"
        )
    kinds = Counter(rejected.reason.partition(" (")[0] for rejected in ingested.rejected)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in kinds.most_common(5))
    more = f" and {len(kinds) - 5} other reasons" if len(kinds) > 5 else ""
    raise UserError(
        f"{num_rejected:,} of {total:,} images cannot be read, {num_rejected / total:.1%}, where "
        f"dataset.max_rejected allows {max_rejected:.1%} ({reasons}{more}); all are listed in {listed_in}: "
        "mend or remove them, or raise dataset.max_rejected in params.yaml"
    )


def _leaked(outcomes: Sequence[Read | str], is_test: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which images to learn from have the bytes of one in the test split, [N]."""
    hashes = [outcome.sha256 if isinstance(outcome, Read) else None for outcome in outcomes]
    in_test = {sha256 for sha256, test in zip(hashes, is_test, strict=True) if test and sha256 is not None}
    return np.array(
        [not test and sha256 in in_test for sha256, test in zip(hashes, is_test, strict=True)], dtype=np.bool_
    )


def _accepted(entry: Entry, outcome: Read | str) -> Accepted:
    assert isinstance(outcome, Read)
    return Accepted(entry, outcome.width, outcome.height, outcome.sha256.hex())


def _num_duplicates(outcomes: Sequence[Read | str]) -> int:
    hashes = [outcome.sha256 for outcome in outcomes if isinstance(outcome, Read)]
    return len(hashes) - len(set(hashes))
