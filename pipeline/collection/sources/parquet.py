"""Hugging Face style tables: a column of image files' bytes, and one of labels where there are any."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pyarrow.types
from numpy.typing import NDArray

from pipeline.artifacts import UNLABELLED
from pipeline.collection.sources.collection import (
    Collection,
    Content,
    Entries,
    Unreadable,
    printable,
)
from pipeline.collection.sources.files import source_path, walk
from pipeline.collection.sources.names import Names, are_distinct, hash_keys
from pipeline.collection.sources.remote import RemoteFile
from pipeline.collection.sources.splits import SPLIT_NAMES, settle
from pipeline.errors import UserError
from pipeline.params.dataset import Dataset

SUFFIXES = frozenset({".parquet"})
IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # testData is two, and valuable is one
_BEHIND = re.compile(r"(?<=.)(set|data|batch|images)$")  # testset
_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class _Table:
    """A file, and the columns that are read of it."""

    name: str
    path: Path
    num_rows: int
    image_column: str
    label_column: str | None


def parquet(params: Dataset) -> Collection:
    """The tables of `dataset.path`.

    The image column holds the bytes of image files, or structs of `bytes` and `path`. The label column
    holds numbers, which the table's own list of class names may name, or words. The last word
    of a file's path that names a split (`SPLIT_NAMES`) says which, and `settle` what becomes of it. An image
    is known by the path that stands beside its bytes, or by their hash: a row that comes or goes changes the
    name and the split of no other.

    Raises:
        UserError: there is no such path, no table, no such column, or a table is damaged.
    """
    path = source_path(params)
    tables = [_open(name, file, params) for name, file in _files(path)]
    keys = [_keys(table) for table in tables]
    sources = Names(
        printable(f"{table.name}#{key}") for table, own in zip(tables, keys, strict=True) for key in own
    )
    class_names, labels = _classes(
        [value for table in tables for value in _labels(table)], _own_names(tables[0])
    )
    names: Sequence[str] = keys[0] if len(keys) == 1 else Names(key for own in keys for key in own)
    if len(keys) > 1 and not are_distinct(names):  # a table's own are
        names = sources
    places = [place for table in tables for place in [_place(table.name)] * table.num_rows]
    settled = settle(names, places, labels, params.test_fraction, params.seed)
    kinds = Counter(_place(table.name) for table in tables)
    by_split = ", ".join(f"{count:,} {place}" for place, count in kinds.items())
    column = tables[0].image_column
    remarks = [f"tables: {by_split}, by their names; {len(sources):,} rows, images in column {column!r}"]
    if not class_names:
        remarks.append("no labels: there is nothing to score with")
    number_of = np.full(len(sources), -1)  # of each row, where it has a place
    number_of[settled.rows] = np.arange(len(settled.rows))
    if len(settled.rows) < len(sources):
        sources = Names(sources[int(row)] for row in settled.rows)

    def contents() -> Iterator[tuple[int, Content]]:
        row = 0
        for table in tables:
            for content in _images(table):
                if number_of[row] >= 0:
                    yield int(number_of[row]), content
                row += 1

    return Collection(
        class_names=class_names,
        entries=Entries(sources, settled.splits, labels[settled.rows]),
        contents=contents,
        remarks=(*remarks, *settled.remarks),
    )


def _files(path: Path) -> list[tuple[str, Path]]:
    if path.is_file():
        return [(path.name, path)]
    found = [(file.name, file.path) for file in walk(path, SUFFIXES)] if path.is_dir() else []
    if not found:
        raise UserError(
            f"{path}: no .parquet file and no folder that holds one: check dataset.path in params.yaml"
        )
    return found


def _open(name: str, path: Path, params: Dataset) -> _Table:
    with undamaged(path):
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                schema, num_rows = file.schema_arrow, file.metadata.num_rows
        except pyarrow.ArrowInvalid as error:
            raise UserError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from None
    image_column = params.image_column or next(
        (column for column in IMAGE_COLUMNS if column in schema.names), None
    )
    if image_column is None or image_column not in schema.names:
        raise UserError(
            f"{path}: has no column {image_column or 'image'!r}, its columns are {', '.join(schema.names)}: "
            "name one in dataset.image_column"
        )
    _check_single(path, schema, image_column)
    if not holds_bytes(schema.field(image_column).type):
        raise UserError(
            f"{path}: column {image_column!r} holds {schema.field(image_column).type}, not the bytes of "
            "image files: name another one in dataset.image_column"
        )
    return _Table(name, path, num_rows, image_column, _label_column(path, schema, params))


def _label_column(path: Path, schema: pyarrow.Schema, params: Dataset) -> str | None:
    if params.labels == "none":
        return None
    column = params.label_column or next((name for name in _LABEL_COLUMNS if name in schema.names), None)
    if column is None:
        return None
    if column not in schema.names:
        raise UserError(
            f"{path}: has no column {column!r}, its columns are {', '.join(schema.names)}: "
            "name one in dataset.label_column"
        )
    _check_single(path, schema, column)
    if pyarrow.types.is_nested(getattr(schema.field(column).type, "storage_type", schema.field(column).type)):
        raise UserError(
            f"{path}: column {column!r} holds {schema.field(column).type}, not one label a row: name another "
            "one in dataset.label_column, or set dataset.labels to none"
        )
    return column


def _check_single(path: Path, schema: pyarrow.Schema, column: str) -> None:
    if (count := schema.names.count(column)) > 1:
        raise UserError(f"{path}: has {count} columns {column!r}: leave one, or rename the others")


def holds_bytes(kind: pyarrow.DataType) -> bool:
    """Whether a column holds bytes, or structs of bytes."""
    if pyarrow.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and holds_bytes(kind.field("bytes").type)
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _place(name: str) -> str:
    """A value of `SPLIT_NAMES`: by the last of its words that a split is called by, or train."""
    words = [_BEHIND.sub("", word.lower()) for word in _WORD.findall(name)]
    return next((SPLIT_NAMES[word] for word in reversed(words) if word in SPLIT_NAMES), "train")


def _keys(table: _Table) -> Names:
    """What tells a row from the others of its table wherever it stands: its image's path, or its hash."""
    paths = _paths(table)
    if paths is not None and are_distinct(paths):
        return paths
    del paths  # before others take their place
    return hash_keys(_images(table), table.num_rows)


def _paths(table: _Table) -> Names | None:
    """The paths beside the bytes, where the column has them, one for each."""
    with undamaged(table.path), pyarrow.parquet.ParquetFile(table.path, pre_buffer=False) as file:
        kind = file.schema_arrow.field(table.image_column).type
        if not (pyarrow.types.is_struct(kind) and kind.get_field_index("path") >= 0):
            return None
        parts = file.iter_batches(columns=[f"{table.image_column}.path"])
        names = Names(path or "" for part in parts for path in part.column(0).field("path").to_pylist())
    return names if "" not in names else None


def _labels(table: _Table) -> list[Any]:
    if table.label_column is None:
        return [None] * table.num_rows
    with undamaged(table.path), pyarrow.parquet.ParquetFile(table.path) as file:
        values = file.read(columns=[table.label_column]).column(0).to_pylist()
    _check_num_rows(table, len(values))
    return [None if _is_missing(value) else _whole(value) for value in values]


def _is_missing(value: Any) -> bool:
    """Whether it is no label: pandas writes NaN where it has none, Hugging Face -1, and people nothing."""
    return bool(
        value is None
        or value != value
        or value == UNLABELLED
        or (isinstance(value, str | bytes) and not value.strip())
    )


def _whole(value: Any) -> Any:
    """A number without a fraction as an int: pandas makes floats of a whole column when one is missing."""
    is_number = isinstance(value, float | Decimal)
    return int(value) if is_number and math.isfinite(value) and value == int(value) else value


def _own_names(table: _Table) -> list[str] | None:
    """The class names that Hugging Face's datasets write into the schema."""
    with undamaged(table.path), pyarrow.parquet.ParquetFile(table.path) as file:
        metadata = file.schema_arrow.metadata or {}
    try:
        return list(json.loads(metadata[b"huggingface"])["info"]["features"][table.label_column]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _classes(values: Sequence[Any], own_names: list[str] | None) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names, and the label of each value; None is no label."""
    known = {value for value in values if value is not None}
    if own_names is not None and all(_counts(value, own_names) for value in known):
        return tuple(own_names), np.array([UNLABELLED if value is None else value for value in values], int)
    if len({type(value) for value in known}) > 1:  # 1 in one table and "1" in another
        values = [None if value is None else str(value) for value in values]
        known = {value for value in values if value is not None}
    in_order = sorted(known)
    label_of = {value: label for label, value in enumerate(in_order)}
    names = tuple(printable(str(value)) for value in in_order)
    return names, np.fromiter((label_of.get(value, UNLABELLED) for value in values), np.int64, len(values))


def _counts(value: Any, names: Sequence[str]) -> bool:
    """Whether it is the number of one of the names."""
    return isinstance(value, int) and 0 <= value < len(names)


def _images(table: _Table) -> Iterator[Content]:
    num_rows = 0
    # buffered beforehand, every row group that was read would stay in memory to the end
    with undamaged(table.path), pyarrow.parquet.ParquetFile(table.path, pre_buffer=False) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[table.image_column]):
            num_rows += len(batch)
            if num_rows > table.num_rows:
                break
            for value in batch.column(0):
                yield content_of(value.as_py())
    _check_num_rows(table, num_rows)


def _check_num_rows(table: _Table, found: int) -> None:
    if found != table.num_rows:
        raise _damaged(table.path, f"{found:,} rows, where it says {table.num_rows:,}")


@contextmanager
def undamaged(path: Path | RemoteFile) -> Iterator[None]:
    """Says in one line that a table is damaged."""
    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, NotImplementedError):
            raise UserError(f"{path}: cannot be read here ({str(error).splitlines()[0]})") from None
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
            raise  # the machine's own; pyarrow's of damage has no number
        raise _damaged(path, str(error).splitlines()[0]) from None


def _damaged(path: Path | RemoteFile, reason: str) -> UserError:
    return UserError(f"{path}: damaged ({reason}): copy or download it again")


def content_of(value: dict[str, Any] | bytes | None) -> Content:
    """The image of a row."""
    has_path = isinstance(value, dict) and value.get("path")
    content: bytes | None = value["bytes"] if isinstance(value, dict) else value
    if content is None:
        return Unreadable("the table has its path and not its bytes" if has_path else "no bytes in the table")
    return content
