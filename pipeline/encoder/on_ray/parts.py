"""Any number of images in parts of some thousand, each of which a worker can read by itself."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from pipeline.atomic import atomic_file
from pipeline.collection.places import Place, in_table, reader_of, row_groups
from pipeline.collection.sources.collection import Span, Unreadable, printable
from pipeline.collection.sources.members import Member
from pipeline.collection.sources.remote import RemoteFile, kind_of
from pipeline.encoder.embed_each import members_of

_MEMBERS = 2048  # of a part: a minute of photographs; what is lost at most with a worker
_SCHEMA = pyarrow.schema(
    {
        "source": pyarrow.string(),
        "name": pyarrow.string(),
        "address": pyarrow.string(),  # of a file system elsewhere; of a local file nothing
        "path": pyarrow.binary(),  # as the system has it; a name need be no UTF-8
        "modified": pyarrow.string(),
        "offset": pyarrow.int64(),
        "length": pyarrow.int64(),
        "problem": pyarrow.string(),
    }
)


@dataclass(frozen=True)
class Part:
    """Some images, in the order in which one process would read them.

    Attributes:
        place: an archive or a table that they are read from; None: they are listed one by one, as the files
            of a folder and the members of a tar are.
        start: the first row group, of the list or the table, or the first member of a zip.
        stop: behind the last; None: all of a .tar.gz, which can be read from its beginning alone.
    """

    place: Place | None
    start: int
    stop: int | None


def list_parts(places: Sequence[Place], listing: Path) -> list[Part]:
    """Writes the list of what can be read one by one, and says what parts there are.

    Raises:
        UserError: there is no such path, or an archive or a table is damaged.
    """
    parts: list[Part] = []
    num_groups = 0
    with (
        atomic_file(listing) as partial,
        partial.open("wb") as file,
        pyarrow.parquet.ParquetWriter(file, _SCHEMA) as writer,
    ):
        for place in places:
            if (of_archive := _parts_of(place)) is not None:
                parts += of_archive
                continue
            for rows in _groups(members_of(place)):
                writer.write_table(pyarrow.Table.from_pylist(rows, _SCHEMA))
                parts.append(Part(None, num_groups, num_groups + 1))
                num_groups += 1
    return parts


def members_in(part: Part, listing: Path) -> Iterator[tuple[str, Member]]:
    """The images of a part, and what a person knows each by."""
    if part.place is None:
        with pyarrow.parquet.ParquetFile(listing) as file:
            for row in file.read_row_group(part.start).to_pylist():
                yield row["source"], Member(row["name"], _content(row))
    elif _is_table(part.place):
        assert part.stop is not None
        for member in in_table(part.place, range(part.start, part.stop)):
            yield printable(f"{part.place}/{member.name}"), member
    else:
        yield from islice(members_of(part.place), part.start, part.stop)


def sha256_of_parts(parts: Sequence[Part], listing: Path) -> str:
    """A hash of which images there are, where they lie, and when their files were modified."""
    total = hashlib.sha256()
    with pyarrow.parquet.ParquetFile(listing) as file:
        for batch in file.iter_batches():
            total.update(repr(batch.to_pylist()).encode())
    for part in parts:
        stamp = () if part.place is None else _stamp(part.place)
        total.update(repr((str(part.place), part.start, part.stop, stamp)).encode())
    return total.hexdigest()


def _parts_of(place: Place) -> list[Part] | None:
    """Those of an archive or a table; None where its images are listed one by one."""
    name = place.name.lower()
    if reader_of(place) is None or (isinstance(place, Path) and place.is_dir()):
        return None
    if name.endswith((".tar.gz", ".tgz")):
        return [Part(place, 0, None)]
    if name.endswith(".zip"):
        count = sum(1 for _ in members_of(place))
        return [Part(place, start, min(start + _MEMBERS, count)) for start in range(0, count, _MEMBERS)]
    return _parts_of_table(place) if _is_table(place) else None


def _parts_of_table(place: Place) -> list[Part]:
    parts, first, num_rows = [], 0, 0
    counts = row_groups(place)
    for number, count in enumerate(counts, start=1):
        num_rows += count
        if num_rows >= _MEMBERS or number == len(counts):
            parts.append(Part(place, first, number))
            first, num_rows = number, 0
    return parts


def _is_table(place: Place) -> bool:
    return place.name.lower().endswith(".parquet")


def _groups(members: Iterator[tuple[str, Member]]) -> Iterator[list[dict[str, Any]]]:
    stamps = _Stamps()
    while rows := [_row(source, member, stamps) for source, member in islice(members, _MEMBERS)]:
        yield rows


class _Stamps:
    """When a local file was modified, asked once for all members of an archive."""

    def __init__(self) -> None:
        self._path, self._modified = Path(), ""

    def of(self, path: Path) -> str:
        if path != self._path:
            self._path, self._modified = path, str(path.stat().st_mtime_ns)
        return self._modified


def _row(source: str, member: Member, stamps: _Stamps) -> dict[str, Any]:
    content = member.content
    row: dict[str, Any] = dict.fromkeys(_SCHEMA.names) | {"source": source, "name": printable(member.name)}
    if isinstance(content, Unreadable):
        return row | {"problem": content.reason}
    assert isinstance(content, Span)  # of the readers that list files and members of a tar
    row |= {"offset": content.offset, "length": content.length}
    if isinstance(content.path, RemoteFile):
        file = content.path
        return row | {"address": file.address, "path": file.path.encode(), "modified": file.modified}
    path = content.path.resolve()
    return row | {"path": os.fsencode(path), "modified": stamps.of(path)}


def _content(row: dict[str, Any]) -> Span | Unreadable:
    if row["problem"] is not None:
        return Unreadable(row["problem"])
    path: Place = Path(os.fsdecode(row["path"]))
    if row["address"] is not None:
        path = RemoteFile(row["address"], row["path"].decode(), row["modified"])
    return Span(path, row["offset"], row["length"])


def _stamp(place: Place) -> tuple[Any, ...]:
    if isinstance(place, RemoteFile):
        return tuple(map(str, kind_of(place)))
    status = place.stat()
    return status.st_size, status.st_mtime_ns
