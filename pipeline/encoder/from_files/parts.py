"""Any number of images in parts of some thousand, each of which can be read by itself."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from pipeline.atomic import atomic_file
from pipeline.collection.places import Place, in_table, reader_of, row_groups
from pipeline.collection.sources.collection import Span, Unreadable, printable
from pipeline.collection.sources.members import Member
from pipeline.collection.sources.remote import RemoteFile, kind_of
from pipeline.encoder.from_files.embed_each import members_of, nothing_to_read

_MEMBERS = 2048  # of a part: a minute of photographs; what is lost at most with a process that is killed
_STREAMS = (".tar.gz", ".tgz")  # of members that only who reads all before them can read
_TABLE = ".parquet"
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
        start: the first row group, of the list or the table, or the first member of an archive.
        stop: behind the last; None: all of a .tar.gz, which can be read from its beginning alone.
        num_images: how many there are; None: of a .tar.gz nobody has counted them.
    """

    place: Place | None
    start: int
    stop: int | None
    num_images: int | None


def list_parts(places: Sequence[Place], listing: Path) -> list[Part]:
    """Writes the list of what can be read one by one, and says what parts there are.

    Raises:
        UserError: there is no such path, an archive or a table is damaged, or they hold no image.
    """
    parts: list[Part] = []
    num_groups = 0
    with (
        atomic_file(listing) as partial,
        partial.open("wb") as file,
        pyarrow.parquet.ParquetWriter(file, _SCHEMA) as writer,
    ):
        for is_listed, group in groupby(places, _is_listed):
            if not is_listed:
                parts += chain.from_iterable(map(_parts_of, group))
                continue
            for rows in _groups(chain.from_iterable(map(members_of, group))):
                writer.write_table(pyarrow.Table.from_pylist(rows, _SCHEMA))
                parts.append(Part(None, num_groups, num_groups + 1, len(rows)))
                num_groups += 1
    if not parts:
        raise nothing_to_read(places)
    return parts


def list_for_one_reader(places: Sequence[Place], listing: Path) -> list[Part]:
    """The same, with every .tar.gz cut too: for who reads the parts in their order."""
    parts: list[Part] = []
    for part in list_parts(places, listing):
        parts += [part] if part.place is None or part.num_images is not None else _of_members(part.place)
    if not parts:
        raise nothing_to_read(places)
    return parts


def read_parts(
    parts: Sequence[Part], numbers: Sequence[int], listing: Path
) -> Iterator[tuple[int, Iterator[tuple[str, Member]]]]:
    """The images of these parts, ascending, with the number of each: an archive is gone through once.

    Each part is read to its end before the next is asked for.
    """
    opened: Place | None = None
    members: Iterator[tuple[str, Member]] = iter(())
    position = 0
    for number in numbers:
        part = parts[number]
        if part.place is None or part.stop is None or _is_table(part.place):
            yield number, members_in(part, listing)
            continue
        if part.place != opened or part.start < position:
            opened, members, position = part.place, members_of(part.place), 0
        yield number, islice(members, part.start - position, part.stop - position)
        position = part.stop


def members_in(part: Part, listing: Path) -> Iterator[tuple[str, Member]]:
    """The images of a part, and what a person knows each by."""
    if part.place is None:
        # opened here, since pyarrow takes no name that is no UTF-8
        with listing.open("rb") as opened, pyarrow.parquet.ParquetFile(opened) as file:
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
    with listing.open("rb") as opened, pyarrow.parquet.ParquetFile(opened, pre_buffer=False) as file:
        for batch in file.iter_batches():
            total.update(repr(batch.to_pylist()).encode())
    for part in parts:
        stamp = () if part.place is None else _stamp(part.place)
        total.update(repr((str(part.place), part.start, part.stop, stamp)).encode())
    return total.hexdigest()


def _is_listed(place: Place) -> bool:
    """Whether its images can be read one by one, without going through what stands before each."""
    is_folder_or_file = reader_of(place) is None or (isinstance(place, Path) and place.is_dir())
    return is_folder_or_file or not place.name.lower().endswith((*_STREAMS, ".zip", _TABLE))


def _parts_of(place: Place) -> list[Part]:
    """Those of an archive or a table."""
    if _is_table(place):
        return _parts_of_table(place)
    if place.name.lower().endswith(_STREAMS):
        return [Part(place, 0, None, None)]
    return _of_members(place)


def _of_members(archive: Place) -> list[Part]:
    count = sum(1 for _ in members_of(archive))
    starts = range(0, count, _MEMBERS)
    return [Part(archive, start, stop := min(start + _MEMBERS, count), stop - start) for start in starts]


def _parts_of_table(place: Place) -> list[Part]:
    parts, first, num_rows = [], 0, 0
    counts = row_groups(place)
    for number, count in enumerate(counts, start=1):
        num_rows += count
        if num_rows >= _MEMBERS or (number == len(counts) and num_rows):
            parts.append(Part(place, first, number, num_rows))
            first, num_rows = number, 0
    return parts


def _is_table(place: Place) -> bool:
    return place.name.lower().endswith(_TABLE)


def _groups(members: Iterator[tuple[str, Member]]) -> Iterator[list[dict[str, Any]]]:
    stamps = _Stamps()
    while rows := [_row(source, member, stamps) for source, member in islice(members, _MEMBERS)]:
        yield rows


class _Stamps:
    """Where a local file lies and when it was modified, asked once for all members of an archive."""

    def __init__(self) -> None:
        self._path, self._stamp = Path(), (b"", "")

    def of(self, path: Path) -> tuple[bytes, str]:
        if path != self._path:
            self._path = path
            self._stamp = os.fsencode(path.absolute()), str(path.stat().st_mtime_ns)
        return self._stamp


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
    path, modified = stamps.of(content.path)
    return row | {"path": path, "modified": modified}


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
    return str(place.absolute()), status.st_size, status.st_mtime_ns
