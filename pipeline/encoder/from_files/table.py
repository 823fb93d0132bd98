"""A table of embeddings under way: one Parquet file, a row an image."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

from pipeline.encoder.from_files.embed_each import Embedded
from pipeline.encoder.runtime import Encoder

_ROWS_A_GROUP = 1 << 13  # held until they are written: 67 MB of 2,048 dimensions


class Table:
    """A Parquet file under way: source, sha256, width, height, embedding (float32 [D]).

    The schema's metadata has the encoder's under `encoder`, with its sha256.

    Args:
        path: of the file.
        encoder: that makes the embeddings.

    Attributes:
        num_rows: so far.
    """

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

    def __enter__(self) -> "Table":
        self._file = self._path.open("wb")  # pyarrow takes no name that is no UTF-8
        self._writer = pyarrow.parquet.ParquetWriter(self._file, self._schema, write_page_checksum=True)
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            self._write()
        self._writer.close()
        self._file.close()

    def add(self, embedded: Embedded) -> None:
        """Rows more."""
        columns = [
            embedded.sources,
            [read.sha256.hex() for read in embedded.reads],
            [read.width for read in embedded.reads],
            [read.height for read in embedded.reads],
            pyarrow.FixedSizeListArray.from_arrays(
                pyarrow.array(embedded.embeddings.reshape(-1)), embedded.embeddings.shape[1]
            ),
        ]
        arrays = [
            pyarrow.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)
        ]
        self.append(pyarrow.record_batch(arrays, schema=self._schema))

    def append(self, batch: pyarrow.RecordBatch) -> None:
        """Rows of another such table."""
        self._waiting.append(batch.replace_schema_metadata(self._schema.metadata))
        self.num_rows += batch.num_rows
        if sum(batch.num_rows for batch in self._waiting) >= _ROWS_A_GROUP:
            self._write()

    def note(self, key: str, value: str) -> None:
        """Adds to what the file says of itself."""
        self._writer.add_key_value_metadata({key: value})

    def _write(self) -> None:
        if self._waiting:
            self._writer.write_table(pyarrow.Table.from_batches(self._waiting))
        self._waiting = []
