"""A collection to arrays: decoded on every core, in flat memory, in the order of the ids."""

import hashlib
import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.artifacts import SPLITS, compact_array, create_array
from pipeline.collection.sources.collection import Collection, Content, Entry, Pixels, Span, Unreadable
from pipeline.errors import MachineError, UserError
from pipeline.images import UnreadableImageError, check_num_bytes, decode, fit
from pipeline.params.reader import Dataset

# Handed to a worker at a time: enough that handing over costs little, and little enough that memory is flat
# and that Ctrl-C, which waits for what was begun, does not wait long.
_IMAGES_AT_ONCE = 64
_BYTES_AT_ONCE = 16 * 2**20
_CHUNKS_WAITING_PER_WORKER = 3


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
    """

    accepted: list[Accepted]
    rejected: list[Rejected]
    num_duplicates: int
    num_train_test_duplicates: int


@dataclass(frozen=True, slots=True)
class _Read:
    """What a worker says of an image whose pixels it has written."""

    width: int
    height: int
    sha256: bytes


def ingest(collection: Collection, params: Dataset, folder: Path) -> Ingested:
    """Writes `{split}.npy`, uint8 [N, size, size, 3], for each split of a collection.

    Every image has its row from the start, so that workers write as they decode; rows that nothing was
    written to are closed up in the end. Images in train and unlabelled whose bytes stand in test are dropped
    where `params.train_test_duplicates` says so.

    Args:
        collection: of a source.
        params: the size, and what is dropped.
        folder: exists and is empty.

    Raises:
        MachineError: a worker was killed, most likely for want of memory.
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

    outcomes: list[_Read | str] = [""] * len(entries)
    places = (
        (number, _Place(entries[number].split, int(rows[number]), content))
        for number, content in collection.contents()
    )
    with tqdm(total=len(entries), desc="fetch", unit=" images", disable=None) as bar:
        for number, outcome in _decode_all(places, paths, params.image_size):
            outcomes[number] = outcome
            bar.update()

    is_read = np.array([isinstance(outcome, _Read) for outcome in outcomes], dtype=np.bool_)
    leaked = is_read & (splits != SPLITS.index("test"))
    in_test = {
        outcome.sha256
        for outcome, split in zip(outcomes, splits, strict=True)
        if isinstance(outcome, _Read) and SPLITS[split] == "test"
    }
    for row in np.flatnonzero(leaked).tolist():
        outcome = outcomes[row]
        leaked[row] = isinstance(outcome, _Read) and outcome.sha256 in in_test
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


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the pixels go, and what they come from."""

    split: str
    row: int
    content: Content


def _decode_all(
    places: Iterator[tuple[int, _Place]], paths: dict[str, Path], size: int
) -> Iterator[tuple[int, _Read | str]]:
    """Every image decoded by one of as many processes as there are cores; yields its number and outcome."""
    num_workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    waiting: deque[tuple[list[int], Future[list[_Read | str]]]] = deque()
    # spawned, not forked: a fork beside another library's threads may never come back
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, context, _start_worker, (paths, size))
    try:
        for numbers, chunk in _chunks(places):
            with _workers_ignore_ctrl_c():
                waiting.append((numbers, pool.submit(_decode_chunk, chunk)))
            if len(waiting) > _CHUNKS_WAITING_PER_WORKER * num_workers:
                done, future = waiting.popleft()
                yield from zip(done, future.result(), strict=True)
        for done, future in waiting:
            yield from zip(done, future.result(), strict=True)
    except BrokenProcessPool:
        raise MachineError(
            "a process that decodes images was killed, most likely for want of memory: free some, or leave "
            "out the largest images"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _workers_ignore_ctrl_c() -> Iterator[None]:
    """Around whatever starts a process: it inherits the blocked signal, which is its parent's to answer."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _chunks(places: Iterator[tuple[int, _Place]]) -> Iterator[tuple[list[int], list[_Place]]]:
    """Neighbours in one chunk, up to a number of images and of bytes."""
    numbers: list[int] = []
    chunk: list[_Place] = []
    num_bytes = 0
    for number, place in places:
        numbers.append(number)
        chunk.append(place)
        num_bytes += _num_bytes(place.content)
        if len(chunk) == _IMAGES_AT_ONCE or num_bytes >= _BYTES_AT_ONCE:
            yield numbers, chunk
            numbers, chunk, num_bytes = [], [], 0
    if chunk:
        yield numbers, chunk


def _num_bytes(content: Content) -> int:
    match content:
        case bytes():
            return len(content)
        case Span():
            return content.length
        case Pixels():
            return content.values.nbytes
        case Unreadable():
            return 0


_worker_arrays: dict[str, NDArray[np.uint8]] = {}
_worker_size = 0


def _start_worker(paths: dict[str, Path], size: int) -> None:
    global _worker_size
    _worker_size = size
    for split, path in paths.items():
        _worker_arrays[split] = np.load(path, mmap_mode="r+")


def _decode_chunk(chunk: Sequence[_Place]) -> list[_Read | str]:
    return [_decode_one(place) for place in chunk]


def _decode_one(place: _Place) -> _Read | str:
    """Writes one image's pixels to their row; what comes back is what was read, or why it was not."""
    content = place.content
    try:
        if isinstance(content, Unreadable):
            return content.reason
        if isinstance(content, Pixels):
            _worker_arrays[place.split][place.row] = fit(content.values, _worker_size)
            return _Read(content.width, content.height, bytes.fromhex(content.sha256))
        if isinstance(content, Span):
            content = _read_span(content)
        image = decode(content, _worker_size)
    except UnreadableImageError as error:
        return str(error)
    except OSError as error:
        return error.strerror or type(error).__name__
    except MemoryError:
        return "needs more memory than there is"
    _worker_arrays[place.split][place.row] = image.pixels
    return _Read(image.width, image.height, hashlib.sha256(content).digest())


def _read_span(span: Span) -> bytes:
    check_num_bytes(span.length)
    with span.path.open("rb") as file:
        file.seek(span.offset)
        return file.read(span.length)


def _accepted(entry: Entry, outcome: _Read | str) -> Accepted:
    assert isinstance(outcome, _Read)
    return Accepted(entry, outcome.width, outcome.height, outcome.sha256.hex())


def _num_duplicates(outcomes: Sequence[_Read | str]) -> int:
    hashes = [outcome.sha256 for outcome in outcomes if isinstance(outcome, _Read)]
    return len(hashes) - len(set(hashes))
