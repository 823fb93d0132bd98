"""What is known of each vector: from a table, or from where it stands."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from pipeline.collection.sources.collection import printable
from pipeline.errors import UserError
from pipeline.search.files.catalog import COLUMNS, SCHEMA
from pipeline.search.from_arrays.vectors import VectorFile

_ROWS_AT_ONCE = 1 << 16
_WORDS = COLUMNS[1:]
_compute: Any = pyarrow.compute


class Names:
    """Rows of a catalog, of which some are in memory at a time.

    Without a table, or where it says nothing, the split is the file's name without its ending, the source the
    file's name and the row, `train.npy:17`, and class and sha256 are none.

    Args:
        files: whose rows they name, one file after the other.
        table: a Parquet file, a row a vector, with some of the columns id, split, class_name, source and
            sha256, and with others that are passed over.

    Raises:
        UserError: the table is none, or not of these rows.
    """

    def __init__(self, files: Sequence[VectorFile], table: Path | None) -> None:
        self._files, self._path = files, table
        self._count = sum(len(file) for file in files)
        self._file: pyarrow.parquet.ParquetFile | None = None
        if table is not None:
            self._file = _opened(table)
            self._columns = [name for name in COLUMNS if name in self._file.schema_arrow.names]
            num_rows = self._file.metadata.num_rows
            if num_rows != self._count:
                raise UserError(
                    f"{table}: has {num_rows:,} rows for {self._count:,} vectors: it has one each"
                )

    def tables(self) -> Iterator[pyarrow.Table]:
        """All rows, of `SCHEMA`.

        Raises:
            UserError: a value is damaged, no sha256, or an id that does not count the rows.
        """
        first = 0
        for given in self._batches():
            yield self._table(first, given)
            first += given.num_rows

    def _batches(self) -> Iterator[pyarrow.RecordBatch]:
        if self._file is None:
            for first in range(0, self._count, _ROWS_AT_ONCE):
                size = min(_ROWS_AT_ONCE, self._count - first)
                yield pyarrow.record_batch([pyarrow.nulls(size, pyarrow.string())], ["class_name"])
            return
        try:
            for batch in self._file.iter_batches(_ROWS_AT_ONCE, columns=self._columns):
                batch.validate(full=True)
                yield batch
        except (pyarrow.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{self._path}: not a whole parquet file ({reason})") from None

    def _table(self, first: int, given: pyarrow.RecordBatch) -> pyarrow.Table:
        size = given.num_rows
        ids = np.arange(first, first + size)
        if "id" in given.schema.names:
            self._check_ids(given.column("id"), ids)
        columns = {}
        for name in _WORDS:
            words = pyarrow.nulls(size, pyarrow.string())
            if name in given.schema.names:
                words = given.column(name).cast(pyarrow.string())
            columns[name] = _on_one_line(words)
        self._check_digests(first, columns["sha256"])
        if columns["split"].null_count or columns["source"].null_count:
            for name, words in zip(("split", "source"), self._places(first, size), strict=True):
                columns[name] = _compute.coalesce(columns[name], pyarrow.array(words, pyarrow.string()))
        return pyarrow.Table.from_arrays([pyarrow.array(ids), *columns.values()], schema=SCHEMA)

    def _places(self, first: int, size: int) -> tuple[list[str], list[str]]:
        """The split and the source of so many rows, by where they stand."""
        splits: list[str] = []
        sources: list[str] = []
        begin = 0
        for file in self._files:
            rows = range(max(first - begin, 0), min(first + size - begin, len(file)))
            splits += [printable(file.path.stem)] * len(rows)
            name = printable(file.path.name)
            sources += [f"{name}:{row}" for row in rows]
            begin += len(file)
        return splits, sources

    def _check_ids(self, given: pyarrow.Array, expected: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        wrong = _compute.fill_null(_compute.not_equal(given, pyarrow.array(expected)), True)
        if (row := _compute.index(wrong, True).as_py()) >= 0:
            raise UserError(
                f"{self._path}: id {given[row].as_py()} stands in row {expected[row]}: ids count the rows of "
                "all files: sort the table, or leave the column out"
            )

    def _check_digests(self, first: int, given: pyarrow.Array) -> None:
        is_one = _compute.match_substring_regex(given, "^[0-9a-f]{64}$")
        if (row := _compute.index(is_one, False).as_py()) >= 0:
            raise UserError(
                f"{self._path}: sha256 {given[row].as_py()[:80]!r} in row {first + row}: it has 64 "
                "hexadecimal digits, in small letters, or is null"
            )


def _opened(path: Path) -> pyarrow.parquet.ParquetFile:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        file = pyarrow.parquet.ParquetFile(path, pre_buffer=False)
        schema = file.schema_arrow
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: not a parquet file ({' '.join(str(error).split())[:200]})") from None
    if not set(COLUMNS) & set(schema.names):
        raise UserError(f"{path}: has none of the columns {', '.join(COLUMNS)}")
    for name in set(COLUMNS) & set(schema.names):
        if schema.names.count(name) > 1:
            raise UserError(f"{path}: has several columns {name}: keep one")
        kind = schema.field(name).type
        is_right = pyarrow.types.is_integer(kind) if name == "id" else _is_text(kind)
        if not is_right:
            wanted = "whole numbers" if name == "id" else "text"
            raise UserError(f"{path}: column {name} is {kind}: make it {wanted}, or leave it out")
    return file


def _is_text(kind: pyarrow.DataType) -> bool:
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    types = pyarrow.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind))


def _on_one_line(words: pyarrow.Array) -> pyarrow.Array:
    """Without line breaks and other characters that are not shown; most words are ASCII, and stay."""
    doubtful = _compute.fill_null(_compute.match_substring_regex(words, "[^ -~]"), False)
    if not _compute.any(doubtful).as_py():
        return words
    found = words.to_pylist()
    for row in np.flatnonzero(np.asarray(doubtful.to_numpy(zero_copy_only=False))).tolist():
        found[row] = printable(found[row])
    return pyarrow.array(found, pyarrow.string())
