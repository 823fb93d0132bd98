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
from pipeline.collection.columns import MadeWhenAsked
from pipeline.collection.decoding import decode_all
from pipeline.collection.known import KnownImages
from pipeline.collection.outcomes import OutcomesOf
from pipeline.collection.sources.collection import Collection, Entry
from pipeline.collection.worker import Job, Place
from pipeline.errors import UserError
from pipeline.params.dataset import Dataset


@dataclass(frozen=True, slots=True)
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

    accepted: Sequence[Accepted]
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
    splits = np.fromiter((SPLITS.index(entry.split) for entry in entries), np.int8, len(entries))
    rows = np.empty(len(entries), dtype=np.int64)
    for split in range(len(SPLITS)):
        rows[splits == split] = np.arange(np.count_nonzero(splits == split))
    num_rows = {name: int(np.count_nonzero(splits == split)) for split, name in enumerate(SPLITS)}
    paths = {name: folder / f"{name}.npy" for name, count in num_rows.items() if count}
    for name, path in paths.items():
        create_array(path, np.uint8, (num_rows[name], params.image_size, params.image_size, 3))

    outcomes = OutcomesOf(len(entries))
    places = (
        (number, Place(entries[number].split, int(rows[number]), content))
        for number, content in collection.contents()
    )
    with tqdm(total=len(entries), desc="fetch", unit=" images", disable=None) as bar:
        job = Job(paths, params.image_size, known)
        for number, outcome in decode_all(places, job, lambda number: entries[number].source):
            outcomes.note(number, outcome)
            bar.update()

    leaked = outcomes.leaked(is_test=splits == SPLITS.index("test"))
    kept = outcomes.is_read & ~leaked if params.train_test_duplicates == "drop" else outcomes.is_read
    for split, name in enumerate(SPLITS):
        if name in paths:
            compact_array(paths[name], kept[splits == split])

    order = np.concatenate([np.flatnonzero(kept & (splits == split)) for split in range(len(SPLITS))])
    return Ingested(
        accepted=AcceptedOf(entries, outcomes, order),
        rejected=[
            Rejected(entries[number].source, reason) for number, reason in sorted(outcomes.reasons.items())
        ],
        num_duplicates=outcomes.num_duplicates(),
        num_train_test_duplicates=int(leaked.sum()),
        num_known=outcomes.num_known,
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


class AcceptedOf(MadeWhenAsked[Accepted]):
    """Some of the images of a collection; each is put together when it is asked for.

    Args:
        entries: of the collection.
        outcomes: likewise.
        order: numbers of the accepted ones, int64 [M].
    """

    def __init__(self, entries: Sequence[Entry], outcomes: OutcomesOf, order: NDArray[np.int64]) -> None:
        self._entries, self._outcomes, self._order = entries, outcomes, order

    def __len__(self) -> int:
        return len(self._order)

    def _made(self, place: int) -> Accepted:
        number = int(self._order[place])
        width, height = self._outcomes.sizes[number].tolist()
        return Accepted(self._entries[number], width, height, self._outcomes.digests[number].tobytes().hex())
