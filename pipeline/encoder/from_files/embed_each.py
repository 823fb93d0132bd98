"""Any image files to embeddings, a batch at a time: files, folders and archives, however many."""

import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.arrays import create_array
from pipeline.collection.decoding import decode_all, most_under_way
from pipeline.collection.known import is_among
from pipeline.collection.places import Place as Source
from pipeline.collection.places import named, reader_of
from pipeline.collection.sources.collection import printable
from pipeline.collection.sources.members import Member
from pipeline.collection.worker import Job, Place, Read
from pipeline.encoder.runtime import Encoder
from pipeline.errors import UserError

_PIXELS = "pixels"  # the one array that is decoded into
# Fewer are decoded sooner than those that decode are told what is known, in a file of 32 bytes each
_WORTH_TELLING = 64


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Passed:
    """An image that is known already, or came before, by the sha256 of its bytes."""

    source: str


@dataclass(frozen=True)
class Embedded:
    """Some images, embedded: B of them.

    Attributes:
        sources: what a person knows each by: the path, and within a folder or an archive its name there.
        names: its name there, or the file's own.
        reads: what was read of each.
        pixels: uint8 [B, H, W, 3]; of the encoder's size.
        embeddings: float32 [B, D], L2-normalised.
    """

    sources: list[str]
    names: list[str]
    reads: list[Read]
    pixels: NDArray[np.uint8]
    embeddings: NDArray[np.float32]


def count_images(paths: Sequence[Source]) -> int:
    """How many images these files, folders and archives hold, by the names of the files.

    Raises:
        UserError: none, or there is no such path.
    """
    total = sum(1 for _ in _members(paths))
    if not total:
        raise nothing_to_read(paths)
    return total


def nothing_to_read(paths: Sequence[Source]) -> UserError:
    """That they hold no image."""
    return UserError(
        f"{', '.join(map(str, paths))}: holds no image that is read (camera RAW is not): name image files, "
        "folders or archives"
    )


def none_can_be_read(total: int, skipped: Sequence[Skipped]) -> UserError:
    """That of so many images none can be read, and why the first cannot."""
    first = f", the first is {skipped[0].source}: {skipped[0].reason}" if skipped else ""
    return UserError(f"no image of {total:,} can be read{first}")


def embed_each(
    encoder: Encoder,
    paths: Sequence[Source],
    total: int,
    batch_size: int,
    description: str,
    known: NDArray[np.bytes_] | None = None,
) -> Iterator[Embedded | Passed | Skipped]:
    """Decodes and embeds images, with progress, in the order that `embed_files` describes.

    Args:
        encoder: gives float32 [B, D].
        paths: image files, folders and archives.
        total: as `count_images` counted them; files that come meanwhile are left out.
        batch_size: images that the encoder is given at a time.
        description: stands before the progress bar.
        known: sha256 of images that are passed over, S32 [N], sorted, and of many not even decoded; so is
            then what comes twice. None: every image is embedded.

    Raises:
        UserError: there is no such path, or an archive is damaged.
        MachineError: the process of an image was killed, most likely for want of memory.
    """
    with tqdm(total=total, desc=description, unit=" images", disable=None) as bar:
        members = islice(_members(paths), total)
        for outcome in embed_members(encoder, members, total, batch_size, known):
            bar.update(len(outcome.reads) if isinstance(outcome, Embedded) else 1)
            yield outcome


def embed_members(
    encoder: Encoder,
    members: Iterator[tuple[str, Member]],
    total: int,
    batch_size: int,
    known: NDArray[np.bytes_] | None = None,
    num_workers: int | None = None,
) -> Iterator[Embedded | Passed | Skipped]:
    """The same of members, and what a person knows each by.

    Args:
        encoder: gives float32 [B, D].
        members: as their readers list them.
        total: of these at most.
        batch_size: images that the encoder is given at a time.
        known: as for `embed_each`.
        num_workers: processes that decode; None: one a core.
    """
    for _, outcome in embed_parts(encoder, iter([(0, members)]), total, batch_size, known, num_workers):
        yield outcome


def embed_parts(
    encoder: Encoder,
    parts: Iterator[tuple[int, Iterator[tuple[str, Member]]]],
    total: int,
    batch_size: int,
    known: NDArray[np.bytes_] | None = None,
    num_workers: int | None = None,
) -> Iterator[tuple[int, Embedded | Passed | Skipped]]:
    """The same of parts, each with its number, which comes with every outcome; a batch is of one part.

    So the encoder is given the same batches of a part, whatever came before, and images of the next are
    decoded while those of one are embedded.
    """
    with tempfile.TemporaryDirectory() as scratch:
        unwanted = None
        if known is not None and total >= _WORTH_TELLING:
            unwanted = Path(scratch) / "known.npy"
            _scratch_array(unwanted, known.dtype, known.shape)[:] = known  # type: ignore[arg-type]
        num_rows = min(total, most_under_way(num_workers) + batch_size)
        decoded = _Decoded(encoder.image_size, num_rows, Path(scratch), unwanted, num_workers)
        seen: set[bytes] = set()
        batch: list[_Waiting] = []
        for outcome in decoded.images(parts):
            if batch and (len(batch) == batch_size or outcome.part != batch[0].part):
                yield batch[0].part, decoded.embedded(batch, encoder)
                batch = []
            if isinstance(outcome, _Unread):
                yield outcome.part, Skipped(outcome.source, outcome.reason)
            elif known is not None and (outcome.read.sha256 in seen or is_among(outcome.read.sha256, known)):
                decoded.free(outcome.row)
                yield outcome.part, Passed(outcome.source)
            else:
                if known is not None:
                    seen.add(outcome.read.sha256)
                batch.append(outcome)
        if batch:
            yield batch[0].part, decoded.embedded(batch, encoder)


@dataclass(frozen=True)
class _Waiting:
    """An image whose pixels stand in a row of the scratch array."""

    part: int
    row: int
    source: str
    name: str
    read: Read


@dataclass(frozen=True)
class _Unread:
    """One that could not be read, and why."""

    part: int
    source: str
    reason: str


class _Decoded:
    """Decoded images wait in rows of a scratch array, which are used again once they are embedded."""

    def __init__(
        self, size: int, num_rows: int, scratch: Path, unwanted: Path | None, num_workers: int | None
    ) -> None:
        self._path, self._num_workers = scratch / "pixels.npy", num_workers
        self._job = Job({_PIXELS: self._path}, size, unwanted=unwanted)
        self._pixels = _scratch_array(self._path, np.uint8, (num_rows, size, size, 3))
        self._free = deque(range(num_rows))

    def images(
        self, parts: Iterator[tuple[int, Iterator[tuple[str, Member]]]]
    ) -> Iterator[_Waiting | _Unread]:
        under_way: dict[int, tuple[int, int, str, str]] = {}  # part, row, source and name of each number

        def places() -> Iterator[tuple[int, Place]]:
            members = ((part, *member) for part, members in parts for member in members)
            for number, (part, source, member) in enumerate(members):
                row = self._free.popleft()
                under_way[number] = part, row, source, printable(member.name)
                yield number, Place(_PIXELS, row, member.read())

        def name_of(number: int) -> str:
            return under_way[number][2]

        for number, outcome in decode_all(places(), self._job, name_of, self._num_workers):
            part, row, source, name = under_way.pop(number)
            if isinstance(outcome, Read):
                yield _Waiting(part, row, source, name, outcome)
            else:
                self.free(row)
                yield _Unread(part, source, outcome)

    def free(self, row: int) -> None:
        self._free.append(row)

    def embedded(self, batch: Sequence[_Waiting], encoder: Encoder) -> Embedded:
        pixels = self._pixels[[each.row for each in batch]]
        self._free.extend(each.row for each in batch)
        return Embedded(
            [each.source for each in batch],
            [each.name for each in batch],
            [each.read for each in batch],
            pixels,
            encoder(pixels),
        )


def _scratch_array(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    """Like `create_array`; where the disk is full the file is named: temporary files may have their own."""
    try:
        return create_array(path, dtype, shape)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _members(paths: Sequence[Source]) -> Iterator[tuple[str, Member]]:
    for path in paths:
        yield from members_of(path)


def members_of(path: Source) -> Iterator[tuple[str, Member]]:
    """Every image of a path, and what a person knows it by; camera RAW is passed over.

    Raises:
        UserError: there is no such path, or an archive or a table is damaged.
    """
    if isinstance(path, Path) and not path.exists():
        raise UserError(f"{printable(str(path))}: no such file or folder")
    reader = reader_of(path)
    if reader is None:
        yield printable(str(path)), named(path)
        return
    for member in reader(path):
        if not member.is_raw:
            yield printable(f"{path}/{member.name}"), member
