"""Any image files to a table of embeddings: files, folders and archives, however many."""

import json
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.arrays import create_array
from pipeline.atomic import atomic_file
from pipeline.collection.decoding import decode_all, most_under_way
from pipeline.collection.sources.collection import Span, Unreadable, printable
from pipeline.collection.sources.members import Member, reader_of
from pipeline.collection.worker import Job, Place, Read
from pipeline.encoder.runtime import Encoder
from pipeline.errors import UserError

_PIXELS = "pixels"  # the one array that is decoded into
_ROWS_A_GROUP = 1 << 13  # held until they are written: 67 MB of 2,048 dimensions


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read, and why."""

    source: str
    reason: str


def embed_files(
    encoder: Encoder, paths: Sequence[Path], batch_size: int, output: Path
) -> tuple[int, list[Skipped]]:
    """Writes a Parquet table, a row an image: source, sha256, width, height, embedding (float32 [D]).

    Rows stand in the order of `paths`, within a folder in the order of the names, within an archive as it was
    packed; files that come while it runs are left out. The schema's metadata has the encoder's under
    `encoder`, with its sha256. Images are decoded on every core, into a scratch array on disk that holds
    those of some batches.

    Args:
        encoder: gives float32 [B, D], L2-normalised.
        paths: image files, folders, and .tar, .tar.gz, .tgz and .zip of them.
        batch_size: images that the encoder is given at a time.
        output: of the table, which appears when all of it is written.

    Returns:
        How many rows there are, and what was left out.

    Raises:
        UserError: there is no such path, an archive is damaged, or no image can be read.
        MachineError: the process of an image was killed, most likely for want of memory.
    """
    total = sum(1 for _ in _members(paths))
    if not total:
        raise UserError(
            f"{', '.join(map(str, paths))}: holds no image that is read (camera RAW is not): name "
            "image files, folders or archives"
        )
    with (
        tempfile.TemporaryDirectory() as scratch,
        atomic_file(output) as partial,
        _Table(partial, encoder) as table,
        tqdm(total=total, desc="embed", unit=" images", disable=None) as bar,
    ):
        skipped = []
        for outcome in _embed(
            encoder, islice(_members(paths), total), total, batch_size, Path(scratch), table
        ):
            bar.update()
            if isinstance(outcome, Skipped):
                skipped.append(outcome)
        if table.num_rows == 0:
            first = f", the first is {skipped[0].source}: {skipped[0].reason}" if skipped else ""
            raise UserError(f"no image of {total:,} can be read{first}")
    return table.num_rows, skipped


def _embed(
    encoder: Encoder,
    members: Iterator[tuple[str, Member]],
    total: int,
    batch_size: int,
    scratch: Path,
    table: "_Table",
) -> Iterator[Read | Skipped]:
    """Decoded images wait in rows of a scratch array, which are used again once they are embedded."""
    size = encoder.image_size
    num_rows = min(total, most_under_way() + batch_size)
    pixels = create_array(scratch / "pixels.npy", np.uint8, (num_rows, size, size, 3))
    free = deque(range(num_rows))
    under_way: dict[int, tuple[int, str]] = {}  # the row and the source of each number

    def places() -> Iterator[tuple[int, Place]]:
        for number, (source, member) in enumerate(members):
            under_way[number] = free.popleft(), source
            yield number, Place(_PIXELS, under_way[number][0], member.read())

    batch: list[tuple[int, str, Read]] = []

    def embed_batch() -> None:
        rows = [row for row, _, _ in batch]
        table.add([source for _, source, _ in batch], [read for _, _, read in batch], encoder(pixels[rows]))
        free.extend(rows)
        batch.clear()

    job = Job({_PIXELS: scratch / "pixels.npy"}, size)
    for number, outcome in decode_all(places(), job, lambda number: under_way[number][1]):
        row, source = under_way.pop(number)
        if isinstance(outcome, Read):
            batch.append((row, source, outcome))
            yield outcome
        else:
            free.append(row)
            yield Skipped(source, outcome)
        if len(batch) == batch_size:
            embed_batch()
    if batch:
        embed_batch()


def _members(paths: Sequence[Path]) -> Iterator[tuple[str, Member]]:
    """Every image of all paths, and what a person knows it by; camera RAW is passed over."""
    for path in paths:
        if not path.exists():
            raise UserError(f"{printable(str(path))}: no such file or folder")
        reader = reader_of(path)
        if reader is None:
            yield printable(str(path)), _named(path)
            continue
        for member in reader(path):
            if not member.is_raw:
                yield printable(f"{path}/{member.name}"), member


def _named(path: Path) -> Member:
    """A file that somebody names is left out with its reason where a folder's would be passed over."""
    member = Member(str(path), Span(path, 0, path.stat().st_size))
    if not path.is_file():  # a pipe would be waited for until somebody writes to it
        return Member(member.name, Unreadable("not a regular file"))
    return Member(member.name, Unreadable("camera RAW: export it as JPEG")) if member.is_raw else member


class _Table:
    """A Parquet file under way."""

    def __init__(self, path: Path, encoder: Encoder) -> None:
        card = encoder.metadata | {"sha256": encoder.sha256}
        self._schema = pyarrow.schema(
            {
                "source": pyarrow.string(),
                "sha256": pyarrow.string(),
                "width": pyarrow.int32(),
                "height": pyarrow.int32(),
                "embedding": pyarrow.list_(pyarrow.float32(), encoder.dim),
            },
            metadata={"encoder": json.dumps(card)},
        )
        self._path = path
        self._waiting: list[pyarrow.RecordBatch] = []
        self.num_rows = 0

    def __enter__(self) -> "_Table":
        self._file = self._path.open("wb")  # pyarrow takes no name that is no UTF-8
        self._writer = pyarrow.parquet.ParquetWriter(self._file, self._schema)
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            self._write()
        self._writer.close()
        self._file.close()

    def add(self, sources: list[str], reads: list[Read], embeddings: NDArray[np.float32]) -> None:
        """Rows more: float32 [B, D], and of each where it came from and what was read."""
        columns = [
            sources,
            [read.sha256.hex() for read in reads],
            [read.width for read in reads],
            [read.height for read in reads],
            pyarrow.FixedSizeListArray.from_arrays(
                pyarrow.array(embeddings.reshape(-1)), embeddings.shape[1]
            ),
        ]
        arrays = [
            pyarrow.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)
        ]
        self._waiting.append(pyarrow.record_batch(arrays, schema=self._schema))
        self.num_rows += len(sources)
        if sum(batch.num_rows for batch in self._waiting) >= _ROWS_A_GROUP:
            self._write()

    def _write(self) -> None:
        if self._waiting:
            self._writer.write_table(pyarrow.Table.from_batches(self._waiting))
        self._waiting = []
