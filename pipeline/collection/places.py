"""Where images are read from, whatever it is: a file, a folder, an archive, a table; here or elsewhere."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet
from pyarrow.fs import FileType

from pipeline.collection.sources import members
from pipeline.collection.sources.collection import Span, Unreadable, printable
from pipeline.collection.sources.files import is_hidden
from pipeline.collection.sources.members import Member, is_listed
from pipeline.collection.sources.parquet import IMAGE_COLUMNS, content_of, holds_bytes, undamaged
from pipeline.collection.sources.remote import RemoteFile, is_address, kind_of, remote_file, walk_remote
from pipeline.errors import UserError

Place = Path | RemoteFile
_TABLE = ".parquet"
_ROWS_AT_ONCE = 64


def place_of(text: str) -> Place:
    """The path, or what an address names.

    Raises:
        UserError: there is no such place, or no file system for it.
    """
    if not is_address(text):
        place: Place = Path(text)
        exists = Path(text).exists()
    else:
        place = remote_file(text)
        exists = kind_of(place)[0] != FileType.NotFound
    if not exists:
        raise UserError(f"{printable(str(place))}: no such file or folder")
    return place


def reader_of(place: Place) -> Callable[[Any], Iterator[Member]] | None:
    """What lists the members of a folder, an archive or a table; None for any other file."""
    if place.name.lower().endswith(_TABLE) and not isinstance(place, RemoteFile) and not place.is_dir():
        return in_table
    if isinstance(place, RemoteFile):
        if kind_of(place)[0] == FileType.Directory:
            return _in_remote_folder
        if place.name.lower().endswith(_TABLE):
            return in_table
        return members.reader_of_archive(place.name)
    return members.reader_of(place)


def named(place: Place) -> Member:
    """A file that somebody names is left out with its reason where a folder's would be passed over."""
    if isinstance(place, RemoteFile):
        _, num_bytes, modified = kind_of(place)
        member = Member(place.name, Span(RemoteFile(place.address, place.path, modified), 0, num_bytes))
    else:
        member = Member(place.name, Span(place, 0, place.stat().st_size))
        if not place.is_file():  # a pipe would be waited for until somebody writes to it
            return Member(member.name, Unreadable("not a regular file"))
    return Member(member.name, Unreadable("camera RAW: export it as JPEG")) if member.is_raw else member


def row_groups(place: Place) -> list[int]:
    """How many rows each row group of a table has."""
    with undamaged(place), place.open("rb") as file, pyarrow.parquet.ParquetFile(file) as table:
        return [table.metadata.row_group(n).num_rows for n in range(table.num_row_groups)]


def in_table(place: Place, groups: Sequence[int] | None = None) -> Iterator[Member]:
    """The images of a Parquet file, of some of its row groups or all; known by the path beside, or the row.

    Raises:
        UserError: it is damaged, or no column of it holds images.
    """
    with (
        undamaged(place),
        place.open("rb") as file,
        pyarrow.parquet.ParquetFile(file, pre_buffer=False) as table,  # nothing stays that was read
    ):
        schema, metadata = table.schema_arrow, table.metadata
        column = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
        if column is None or not holds_bytes(schema.field(column).type):
            raise UserError(
                f"{place}: has no column {' or '.join(IMAGE_COLUMNS)} of the bytes of image files, but "
                f"{', '.join(schema.names)}"
            )
        groups = range(table.num_row_groups) if groups is None else groups
        row = sum(metadata.row_group(number).num_rows for number in range(groups[0] if groups else 0))
        for batch in table.iter_batches(_ROWS_AT_ONCE, row_groups=list(groups), columns=[column]):
            for value in batch.column(0):
                plain = value.as_py()
                beside = plain.get("path") if isinstance(plain, dict) else None
                yield Member(beside or f"row {row}", partial(content_of, plain))
                row += 1


def _in_remote_folder(place: Place) -> Iterator[Member]:
    assert isinstance(place, RemoteFile)
    for name, file, num_bytes in walk_remote(place):
        if is_listed(name) and not is_hidden(name):
            yield Member(name, Span(file, 0, num_bytes))
