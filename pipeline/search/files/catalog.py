"""What an index knows of its images: a row an id, in ascending order."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("id", "split", "class_name", "source", "sha256")
# said, and not read off the rows: of a collection without labels no class_name is a word
SCHEMA = pyarrow.schema({"id": pyarrow.int64()} | dict.fromkeys(COLUMNS[1:], pyarrow.string()))
# An answer reads the groups that its images lie in: 65,536 rows are about 5 MB
_ROWS_A_GROUP = 1 << 16
_ANSWERED = list(COLUMNS[:-1])
_OF_FEW_WORDS = ["split", "class_name"]
_GROUPS_KEPT = 64  # 4,194,304 images, about 150 MB with names of 30 letters


def write_catalog(path: Path, rows: "pd.DataFrame | Iterator[pyarrow.Table]") -> None:
    """Writes what an answer names as Parquet, in the order of the ids.

    Args:
        path: of the file.
        rows: the manifest, or tables of `SCHEMA`, of which one is in memory at a time.
    """
    if not isinstance(rows, Iterator):
        table = pyarrow.Table.from_pandas(rows[list(COLUMNS)], SCHEMA, preserve_index=False)
        rows = iter([table.replace_schema_metadata(None)])  # pandas' own: who reads it needs no pandas
    with CatalogWriter(path) as catalog:
        for each in rows:
            catalog.add(each)


def rows_of_manifest(path: Path) -> Iterator[pyarrow.Table]:
    """What a catalog has of a manifest, in parts, of `SCHEMA`; nothing else of the file is read."""
    with pyarrow.parquet.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
        for batch in file.iter_batches(columns=list(COLUMNS)):
            rows = pyarrow.Table.from_batches([batch]).select(COLUMNS)
            yield rows.replace_schema_metadata(None).cast(SCHEMA)


class CatalogWriter:
    """A catalog under way, written in groups as the rows come."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._writer = pyarrow.parquet.ParquetWriter(self._file, SCHEMA)
        self._waiting: list[pyarrow.Table] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            self._write(at_least=1)
        self._writer.close()
        self._file.close()

    def add(self, rows: pyarrow.Table) -> None:
        """Rows more, of `SCHEMA`, with larger ids than those before."""
        self._waiting.append(rows)
        self._write(at_least=_ROWS_A_GROUP)

    def _write(self, at_least: int) -> None:
        """In whole groups, so that the same rows give the same bytes however they come."""
        rows = pyarrow.concat_tables(self._waiting) if self._waiting else SCHEMA.empty_table()
        while len(rows) >= at_least:
            self._writer.write_table(rows.slice(0, _ROWS_A_GROUP).combine_chunks())
            rows = rows.slice(_ROWS_A_GROUP)
        self._waiting = [rows]


class Catalog:
    """A catalog, open for reading; it stays readable when its folder is replaced.

    May be asked by several threads at once. The groups that answers lie in are kept in memory.

    Raises:
        pyarrow.ArrowInvalid: the file is no Parquet.
    """

    def __init__(self, path: Path) -> None:
        # decoded as dictionaries: 1,000,000 words are a few distinct ones and their places
        self._file = pyarrow.parquet.ParquetFile(path, memory_map=True, read_dictionary=_OF_FEW_WORDS)
        self._num_groups = self._file.num_row_groups
        counts = [self._file.metadata.row_group(group).num_rows for group in range(self._num_groups)]
        self._ends = np.cumsum([0, *counts])[1:]
        self._lock = threading.Lock()  # a reader of Parquet is nobody else's while it reads
        self._groups: dict[int, _Group] = {}

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def ids(self) -> NDArray[np.int64]:
        """The id at each place, ascending, [N]; not read where they count from 0 on."""
        if self._counts_from_0():
            return np.arange(len(self), dtype=np.int64)
        return np.asarray(np.from_dlpack(self._column("id").combine_chunks()), dtype=np.int64)

    def rows(self, places: NDArray[np.int64]) -> list[dict[str, Any]]:
        """What an answer names of these places, in their order: id, split, class_name, source."""
        groups = np.searchsorted(self._ends, places, side="right")
        rows: list[dict[str, Any]] = [{}] * len(places)
        for number in np.unique(groups).tolist():
            group = self._group(number)
            here = np.flatnonzero(groups == number)
            for place, row in zip(here.tolist(), group.rows(places[here] - group.first), strict=True):
                rows[place] = row
        return rows

    def words(self, column: str) -> tuple[list[str], NDArray[np.int32]]:
        """The distinct words of a column, and the number of each place's word, -1 where it has none, [N]."""
        return _words(self._column(column))

    def tables(self, columns: tuple[str, ...] = COLUMNS) -> Iterator[pyarrow.Table]:
        """All rows, a group at a time, of `SCHEMA` or some columns of it."""
        schema = pyarrow.schema([SCHEMA.field(name) for name in columns])
        for group in range(self._num_groups):
            with self._lock:
                table = self._file.read_row_group(group, columns=list(columns))
            yield table.cast(schema).replace_schema_metadata(None)

    def _column(self, name: str) -> pyarrow.ChunkedArray:
        with self._lock:
            return self._file.read(columns=[name]).column(name)

    def _group(self, number: int) -> "_Group":
        with self._lock:
            if number not in self._groups:
                if len(self._groups) >= _GROUPS_KEPT:
                    del self._groups[next(iter(self._groups))]
                table = self._file.read_row_group(number, columns=_ANSWERED)
                self._groups[number] = _Group(int(self._ends[number]) - len(table), table)
            return self._groups[number]

    def _counts_from_0(self) -> bool:
        """By what the file says of its last group: ids ascend, so the last one is as large as there are."""
        if self._num_groups == 0:
            return True
        found = self._file.metadata.row_group(self._num_groups - 1).column(0).statistics
        return found is not None and found.has_min_max and found.max == len(self) - 1


class _Group:
    """Some rows, as they are answered from: 3 microseconds a row, where Arrow's own scalars take 13."""

    def __init__(self, first: int, table: pyarrow.Table) -> None:
        self.first = first
        self._ids = np.from_dlpack(table.column("id").combine_chunks())
        found = [_words(table.column(name)) for name in _OF_FEW_WORDS]
        self._words = [([*words, None], numbers) for words, numbers in found]  # the last, -1, is none
        self._sources = table.column("source").combine_chunks()

    def rows(self, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
        ids = self._ids[rows].tolist()
        split, class_name = (
            [words[number] for number in numbers[rows].tolist()] for words, numbers in self._words
        )
        sources = [self._sources[row].as_py() for row in rows.tolist()]  # `take` would import pandas, 0.6 s
        return [
            dict(zip(_ANSWERED, row, strict=True))
            for row in zip(ids, split, class_name, sources, strict=True)
        ]


def _words(column: pyarrow.ChunkedArray) -> tuple[list[str], NDArray[np.int32]]:
    """The distinct words of a column of dictionaries, and the number of each row's word, -1 for none."""
    words = column.unify_dictionaries().combine_chunks()
    if len(words) == 0:
        return [], np.empty(0, dtype=np.int32)
    return words.dictionary.to_pylist(), _numbers(words.indices)


def _numbers(indices: pyarrow.Int32Array) -> NDArray[np.int32]:
    """Those of a dictionary's words, -1 where there is none; Arrow's own functions would import pandas."""
    validity, values = indices.buffers()
    here = slice(indices.offset, indices.offset + len(indices))
    numbers = np.frombuffer(values, dtype=np.int32)[here]
    if indices.null_count == 0:
        return numbers
    is_word = np.unpackbits(np.frombuffer(validity, dtype=np.uint8), bitorder="little")[here]
    return np.where(is_word, numbers, np.int32(-1))
