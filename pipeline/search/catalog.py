"""What an index knows of its images: a row an id."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from pipeline.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("id", "split", "class_name", "source", "sha256")
# said, and not read off the rows: of a collection without labels no class_name is a word
_SCHEMA = pyarrow.schema({"id": pyarrow.int64()} | dict.fromkeys(COLUMNS[1:], pyarrow.string()))
# An answer reads the groups that its ids lie in, whole: 65,536 rows are about 5 MB
_ROWS_A_GROUP = 1 << 16


def write_catalog(path: Path, manifest: "pd.DataFrame") -> None:
    """Writes the columns of the manifest that an answer names, as Parquet, in the order of the ids."""
    table = pyarrow.Table.from_pandas(manifest[list(COLUMNS)], _SCHEMA, preserve_index=False)
    # without pandas' metadata: who reads it needs no pandas
    pyarrow.parquet.write_table(table.replace_schema_metadata(None), path, row_group_size=_ROWS_A_GROUP)


class Catalog:
    """A catalog, open for reading; it stays readable when its folder is replaced.

    Raises:
        pyarrow.ArrowInvalid: the file is no Parquet.
    """

    def __init__(self, path: Path) -> None:
        self._file = pyarrow.parquet.ParquetFile(path, memory_map=True)
        counts = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._ends = np.cumsum([0, *counts])[1:]

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def rows(self, ids: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The rows of these ids, in their order, each a value by the name of its column."""
        groups = np.searchsorted(self._ends, ids, side="right")
        # neither read_table nor take: both import pandas, 0.6 s
        tables = {group: self._file.read_row_group(int(group)) for group in np.unique(groups)}
        rows = []
        for id_, group in zip(ids.tolist(), groups.tolist(), strict=True):
            first = self._ends[group] - len(tables[group])
            rows.append(tables[group].slice(id_ - first, 1).to_pylist()[0])
        return rows

    def ids_of(self, split: str | None, class_name: str | None) -> NDArray[np.bool_]:
        """Which images are of this split and this class (None: of any), [N].

        Raises:
            UserError: no image is of that split, or of that class; the message names those that there are.
        """
        chosen = np.ones(len(self), dtype=np.bool_)
        for column, wanted in (("split", split), ("class_name", class_name)):
            if wanted is None:
                continue
            # decoded as a dictionary: 1,000,000 words are a few distinct ones and their places
            words = self._file.read(columns=[column]).column(column).combine_chunks().dictionary_encode()
            known = [word for word in words.dictionary.to_pylist() if word is not None]
            if wanted not in known:
                listed = ", ".join(sorted(known)[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
                raise UserError(
                    f"{column} is {wanted!r}, of which the index has none: it has {listed or 'none'}"
                )
            places = words.indices.fill_null(-1).to_numpy(zero_copy_only=False)
            chosen &= places == known.index(wanted)
        return chosen


_SHOWN = 12  # names in a message
