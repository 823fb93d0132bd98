"""New images on their way into a segment: in scratch files until all of them are there."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow
import pyarrow.ipc
from numpy.typing import NDArray

from pipeline.encoder.from_files.embed_each import Embedded
from pipeline.search.files.catalog import SCHEMA
from pipeline.search.files.thumbnails import encode_all
from pipeline.search.rows import Rows

_SPLIT = "added"


class Arrivals:
    """New images, of which a batch is in memory: written within the context, read after it.

    Args:
        folder: in which the scratch files lie.
        class_name: of all of them.
        first_id: of the first.
        thumbnail_size: 0: they have none.
    """

    def __init__(self, folder: Path, class_name: str | None, first_id: int, thumbnail_size: int) -> None:
        self._paths = folder / "new.arrow", folder / "new.float32"
        self._class_name, self._first_id, self._thumbnail_size = class_name, first_id, thumbnail_size
        self._schema = pyarrow.schema(
            {"sha256": pyarrow.string(), "source": pyarrow.string(), "jpeg": pyarrow.binary()}
        )
        self._count = self._dimension = 0

    def __enter__(self) -> Self:
        self._named, self._embeddings = (path.open("wb") for path in self._paths)
        self._writer = pyarrow.ipc.new_file(self._named, self._schema)
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()
        self._named.close()
        self._embeddings.close()

    def __len__(self) -> int:
        return self._count

    def add(self, embedded: Embedded) -> None:
        """Some more."""
        jpegs: list[bytes] | list[None] = [None] * len(embedded.reads)
        if self._thumbnail_size:
            jpegs = [jpeg for some in encode_all([embedded.pixels], self._thumbnail_size) for jpeg in some]
        columns = [[read.sha256.hex() for read in embedded.reads], embedded.names, jpegs]
        arrays = [
            pyarrow.array(values, field.type) for values, field in zip(columns, self._schema, strict=True)
        ]
        self._writer.write_batch(pyarrow.record_batch(arrays, schema=self._schema))
        self._embeddings.write(np.ascontiguousarray(embedded.embeddings, dtype=np.float32).tobytes())
        self._count += len(embedded.reads)
        self._dimension = embedded.embeddings.shape[1]

    def remove(self) -> None:
        """Removes the scratch files."""
        for path in self._paths:
            path.unlink()

    @property
    def vectors(self) -> Rows:
        mapped = np.memmap(self._paths[1], dtype=np.float32, mode="r")
        return np.asarray(mapped).reshape(-1, self._dimension)

    def tables(self) -> Iterator[pyarrow.Table]:
        first = self._first_id
        for batch in self._batches():
            count = batch.num_rows
            columns: list[NDArray[np.int64] | list[str | None] | pyarrow.Array] = [
                np.arange(first, first + count),
                [_SPLIT] * count,
                [self._class_name] * count,
                batch.column("source"),
                batch.column("sha256"),
            ]
            arrays = [
                pyarrow.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)
            ]
            yield pyarrow.Table.from_arrays(arrays, schema=SCHEMA)
            first += count

    def jpegs(self) -> Iterator[Sequence[bytes]]:
        for batch in self._batches():
            yield batch.column("jpeg").to_pylist()

    def _batches(self) -> Iterator[pyarrow.RecordBatch]:
        with self._paths[0].open("rb") as file, pyarrow.ipc.open_file(file) as reader:
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)
