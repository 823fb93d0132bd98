"""Hugging Face style tables: a column of image files' bytes, and one of labels where there are any."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pyarrow.types

from pipeline.artifacts import UNLABELLED
from pipeline.collection.sources.collection import (
    Collection,
    Content,
    Entry,
    Unreadable,
    printable,
)
from pipeline.collection.sources.files import source_path, walk
from pipeline.collection.sources.splits import settle
from pipeline.errors import UserError
from pipeline.params.dataset import Dataset

SUFFIXES = frozenset({".parquet"})
_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
_SPLITS = {
    "train": re.compile(r"(^|/)train"),
    "test": re.compile(r"(^|/)test"),
    "val": re.compile(r"(^|/)val"),
    "unlabelled": re.compile(r"(^|/)unlabell?ed"),
}
_KEY_DIGITS = 16  # of a sha256: of a billion images two share them once in 37 times, and get a number more
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
    holds numbers, which the table's own list of class names may name, or words. A file's or folder's name
    that begins with train, test, val or unlabelled says the split, and `settle` what becomes of it. An image
    is known by the path that stands beside its bytes, or by their hash: a row that comes or goes changes the
    name and the split of no other.

    Raises:
        UserError: there is no such path, no table, no such column, or a table is damaged.
    """
    path = source_path(params)
    tables = [_open(name, file, params) for name, file in _files(path)]
    keys = [_keys(table) for table in tables]
    sources = [
        printable(f"{table.name}#{key}") for table, own in zip(tables, keys, strict=True) for key in own
    ]
    class_names, labels = _classes(
        [value for table in tables for value in _labels(table)], _own_names(tables[0])
    )
    names = [key for own in keys for key in own]
    if len(set(names)) < len(names):
        names = sources
    places = [place for table in tables for place in [_place(table.name)] * table.num_rows]
    settled = settle(names, places, labels, params.test_fraction, params.seed)
    remarks = [f"{len(tables):,} tables, {len(sources):,} rows, images in column {tables[0].image_column!r}"]
    if not class_names:
        remarks.append("no labels: there is nothing to score with")
    number_of = {row: number for number, row in enumerate(settled.rows)}

    def contents() -> Iterator[tuple[int, Content]]:
        row = 0
        for table in tables:
            for content in _images(table):
                if row in number_of:
                    yield number_of[row], content
                row += 1

    return Collection(
        class_names=class_names,
        entries=[
            Entry(sources[row], split, labels[row])
            for row, split in zip(settled.rows, settled.splits, strict=True)
        ],
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
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema, num_rows = file.schema_arrow, file.metadata.num_rows
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from None
    image_column = params.image_column or next(
        (column for column in _IMAGE_COLUMNS if column in schema.names), None
    )
    if image_column is None or image_column not in schema.names:
        raise UserError(
            f"{path}: has no column {image_column or 'image'!r}, its columns are {', '.join(schema.names)}: "
            "name one in dataset.image_column"
        )
    if not _holds_bytes(schema.field(image_column).type):
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
    if pyarrow.types.is_nested(schema.field(column).type):
        raise UserError(
            f"{path}: column {column!r} holds {schema.field(column).type}, not one label a row: name another "
            "one in dataset.label_column, or set dataset.labels to none"
        )
    return column


def _holds_bytes(kind: pyarrow.DataType) -> bool:
    if pyarrow.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _place(name: str) -> str:
    """A value of `SPLIT_NAMES`."""
    return next((place for place, pattern in _SPLITS.items() if pattern.search(name.lower())), "train")


def _keys(table: _Table) -> list[str]:
    """What tells a row from the others of its table wherever it stands: its image's path, or its hash."""
    paths = _paths(table)
    if paths is not None and all(paths) and len(set(paths)) == len(paths):
        return paths
    keys, seen = [], Counter[str]()
    for row, content in enumerate(_images(table)):
        key = f"row {row}"
        if isinstance(content, bytes):
            key = hashlib.sha256(content).hexdigest()[:_KEY_DIGITS]
        seen[key] += 1
        keys.append(key if seen[key] == 1 else f"{key}-{seen[key]}")
    return keys


def _paths(table: _Table) -> list[str] | None:
    """The paths beside the bytes, where the column has them."""
    with _undamaged(table), pyarrow.parquet.ParquetFile(table.path) as file:
        kind = file.schema_arrow.field(table.image_column).type
        if not (pyarrow.types.is_struct(kind) and kind.get_field_index("path") >= 0):
            return None
        column = file.read(columns=[f"{table.image_column}.path"]).column(0)
        return [path for chunk in column.chunks for path in chunk.field("path").to_pylist()]


def _labels(table: _Table) -> list[Any]:
    if table.label_column is None:
        return [None] * table.num_rows
    with _undamaged(table), pyarrow.parquet.ParquetFile(table.path) as file:
        values = file.read(columns=[table.label_column]).column(0).to_pylist()
    return [None if value != value else value for value in values]  # pandas writes NaN where it has none


def _own_names(table: _Table) -> list[str] | None:
    """The class names that Hugging Face's datasets write into the schema."""
    with pyarrow.parquet.ParquetFile(table.path) as file:
        metadata = file.schema_arrow.metadata or {}
    try:
        return list(json.loads(metadata[b"huggingface"])["info"]["features"][table.label_column]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _classes(values: Sequence[Any], own_names: list[str] | None) -> tuple[tuple[str, ...], list[int]]:
    """Class names, and the label of each value; no value, or -1 as Hugging Face writes it, is no label."""
    missing = {None, UNLABELLED}
    if own_names is not None and all(
        value in missing or (not isinstance(value, str) and 0 <= value < len(own_names)) for value in values
    ):
        return tuple(own_names), [UNLABELLED if value in missing else int(value) for value in values]
    known = sorted(
        {value for value in values if value not in missing}, key=lambda value: (str(type(value)), value)
    )
    label_of = {value: label for label, value in enumerate(known)}
    names = tuple(printable(str(value)) for value in known)
    return names, [label_of.get(value, UNLABELLED) for value in values]


def _images(table: _Table) -> Iterator[Content]:
    with _undamaged(table), pyarrow.parquet.ParquetFile(table.path) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[table.image_column]):
            for value in batch.column(0):
                yield _bytes(value.as_py())


@contextmanager
def _undamaged(table: _Table) -> Iterator[None]:
    """Says in one line that a table's pages are damaged."""
    try:
        yield
    except (pyarrow.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the machine's own; pyarrow's of damage has no number
        raise UserError(
            f"{table.path}: damaged ({str(error).splitlines()[0]}): copy or download it again"
        ) from None


def _bytes(value: dict[str, Any] | bytes | None) -> Content:
    has_path = isinstance(value, dict) and value.get("path")
    content: bytes | None = value["bytes"] if isinstance(value, dict) else value
    if content is None:
        return Unreadable("the table has its path and not its bytes" if has_path else "no bytes in the table")
    return content
