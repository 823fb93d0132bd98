"""The embeddings of one array on their way to one .npy file: parts that are whole or not there.

They are what an interrupted stage `embed` goes on from, whichever engine made them. A part is a Parquet file
of an image's id, the sha256 of its file and its embedding, so that it says itself what it is of.
"""

import os
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from pipeline.arrays import create_array
from pipeline.atomic import atomic_file
from pipeline.errors import MachineError

# Lost at most with a process that is killed: a second of a small network, half a minute of a large one.
_ROWS_AT_LEAST = 2048
_ROW = np.dtype([("row", "<i8"), ("id", "<i8"), ("sha256", "u1", 32)])
_LIST = "rows.npy"
_IN_A_FOLDER = 1000  # whose names are read with each part that is written


class Shards:
    """The parts of one pass of a network over some rows of an array, for any number of processes.

    Args:
        folder: of this pass alone, where `list_rows` has written what it is of.
        batch_size: images that the network is given at a time. Parts are of whole batches, so the network is
            given the same ones whether or not somebody was interrupted.

    Attributes:
        num_rows: R, of all parts.
        batch_size: as given.
    """

    def __init__(self, folder: Path, batch_size: int) -> None:
        self.folder, self.batch_size = folder, batch_size
        self._list = np.load(folder / _LIST, mmap_mode="r")
        self._rows_each = -(-_ROWS_AT_LEAST // batch_size) * batch_size

    @classmethod
    def open(
        cls,
        folder: Path,
        rows: NDArray[np.int64],
        ids: NDArray[np.int64],
        digests: NDArray[np.uint8],
        batch_size: int,
    ) -> Self:
        """The parts of a folder, which may be new.

        Args:
            folder: whose name is a hash of all that the embeddings depend on, or lies in such a one.
            rows: of the array, [R].
            ids: that the manifest knows them by, [R].
            digests: sha256 of every image's file, by its id: uint8 [N, 32].
            batch_size: images that the network is given at a time.
        """
        if not (folder / _LIST).exists():
            with atomic_file(folder / _LIST) as partial:
                listed = create_array(partial, _ROW, (len(rows),))  # type: ignore[arg-type]
                for start in range(0, len(rows), _ROWS_AT_LEAST):
                    here = slice(start, start + _ROWS_AT_LEAST)
                    listed["row"][here], listed["id"][here] = rows[here], ids[here]
                    listed["sha256"][here] = digests[ids[here]]
        return cls(folder, batch_size)

    @property
    def num_rows(self) -> int:
        return len(self._list)

    def rows(self, number: int) -> NDArray[np.int64]:
        """The rows of the array that a part is of."""
        return np.asarray(self._of(number)["row"])

    def path(self, number: int) -> Path:
        """Where a part lies."""
        return self.folder / f"{number // _IN_A_FOLDER:05d}" / f"{number % _IN_A_FOLDER:03d}.parquet"

    def has(self, number: int) -> bool:
        """Whether a part is there, which it is as a whole."""
        return self.path(number).exists()

    def missing(self) -> list[int]:
        """The numbers of the parts that are not there, or are there and damaged, which are removed."""
        missing = []
        for number in range(-(-len(self._list) // self._rows_each)):
            if self.has(number) and self._read(number) is None:
                self.path(number).unlink()
            if not self.has(number):
                missing.append(number)
        return missing

    def write(self, number: int, embeddings: NDArray[np.float32]) -> None:
        """Writes a part, whole: float32 [rows of the part, D]."""
        of = self._of(number)
        digests = pyarrow.py_buffer(np.ascontiguousarray(of["sha256"]))
        table = pyarrow.table(
            {
                "id": np.ascontiguousarray(of["id"]),
                "sha256": pyarrow.Array.from_buffers(pyarrow.binary(32), len(of), [None, digests]),
                "embedding": pyarrow.FixedSizeListArray.from_arrays(
                    pyarrow.array(embeddings.reshape(-1)), embeddings.shape[1]
                ),
            }
        )
        path = self.path(number)
        path.parent.mkdir(exist_ok=True)
        # Not flushed to the disk, which would take longer than to write it: what a power cut leaves of it is
        # found damaged. And numbers without a pattern are not compressed: it would save nothing.
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        pyarrow.parquet.write_table(
            table, partial, compression="none", use_dictionary=False, write_page_checksum=True
        )
        partial.replace(path)

    def assemble(self, path: Path, dim: int) -> None:
        """Writes all parts, which must be there, to a .npy file, float32 [R, dim].

        Raises:
            MachineError: a part has been removed or damaged meanwhile.
        """
        whole = create_array(path, np.float32, (len(self._list), dim))
        for number, start in enumerate(range(0, len(self._list), self._rows_each)):
            embeddings = self._read(number)
            if embeddings is None:
                raise MachineError(
                    f"{self.path(number)}: damaged or removed since it was written: run the command again"
                )
            whole[start : start + len(embeddings)] = embeddings

    def _read(self, number: int) -> NDArray[np.float32] | None:
        """What stands in a part; None where it is damaged or of other images."""
        try:
            table = pyarrow.parquet.read_table(self.path(number), page_checksum_verification=True)
            ids, digests, column = (table[name].combine_chunks() for name in ("id", "sha256", "embedding"))
            embeddings = column.flatten().to_numpy()
        except (pyarrow.ArrowException, KeyError, FileNotFoundError):
            return None
        except OSError as error:
            if error.errno is not None:
                raise  # the machine's fault, and none of the part's
            return None
        of = self._of(number)
        is_of_these = (
            len(table) == len(of)
            and np.array_equal(ids.to_numpy(), of["id"])
            and b"".join(digests.to_pylist()) == of["sha256"].tobytes()
        )
        return embeddings.reshape(len(of), -1) if is_of_these else None

    def _of(self, number: int) -> NDArray[np.void]:
        part: NDArray[np.void] = self._list[number * self._rows_each : (number + 1) * self._rows_each]
        return part
