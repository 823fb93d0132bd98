"""Small pictures of an index's images: JPEG after JPEG in one Arrow file, read where they lie."""

import io
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow
import pyarrow.ipc
from numpy.typing import NDArray
from PIL import Image

# All batches but the last have so many, so that a row is found by division: 2 MB of 96 px
_ROWS_A_BATCH = 1024
_QUALITY = 85
_JPEG = "jpeg"
_CATALOG = b"catalog_sha256"


def encode(pixels: NDArray[np.uint8], size: int) -> bytes:
    """A picture, uint8 [H, W, 3], as JPEG whose longer side is `size` pixels at most; never enlarged."""
    image = Image.fromarray(pixels)
    longer = max(image.size)
    if longer > size:
        small = [max(1, round(side * size / longer)) for side in image.size]
        image = image.resize((small[0], small[1]), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def encode_all(images: Sequence[NDArray[np.uint8]], size: int) -> Iterator[list[bytes]]:
    """Pictures of arrays [N, H, W, 3], which may be memory maps, in their order, on every core.

    Yields:
        Lists of JPEG, which together are as long as the arrays; a list is in memory at a time.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(cores) as pool:
        for pixels in images:
            for start in range(0, len(pixels), _ROWS_A_BATCH):
                batch = pixels[start : start + _ROWS_A_BATCH]
                yield list(pool.map(lambda one: encode(np.asarray(one), size), batch))


class ThumbnailWriter:
    """A file of thumbnails under way: an Arrow IPC file, a row an image in the order of the catalog's rows.

    Args:
        path: of the file.
        catalog_sha256: of the catalog whose images these are; it stands in the file, so that it is told from
            another of the same length without being read.
    """

    def __init__(self, path: Path, catalog_sha256: str) -> None:
        self._schema = pyarrow.schema({_JPEG: pyarrow.binary()}, metadata={_CATALOG: catalog_sha256})
        self._file = path.open("wb")
        self._writer = pyarrow.ipc.new_file(self._file, self._schema)
        self._waiting: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None and self._waiting:
            self._write(self._waiting)
        self._writer.close()
        self._file.close()

    def add(self, jpegs: Sequence[bytes]) -> None:
        """Rows more."""
        self._waiting += jpegs
        while len(self._waiting) >= _ROWS_A_BATCH:
            self._write(self._waiting[:_ROWS_A_BATCH])
            del self._waiting[:_ROWS_A_BATCH]

    def _write(self, jpegs: list[bytes]) -> None:
        column = pyarrow.array(jpegs, pyarrow.binary())
        self._writer.write_batch(pyarrow.record_batch([column], schema=self._schema))


class Thumbnails:
    """A file of thumbnails, open for reading; what is asked for is read, and nothing else.

    May be asked by several threads at once.

    Attributes:
        catalog_sha256: of the catalog whose images these are.

    Raises:
        ValueError: the file is no Arrow file, or none of thumbnails.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            # mapped by Python: pyarrow takes no name that is no UTF-8
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._file = pyarrow.ipc.open_file(pyarrow.py_buffer(content))
        metadata = self._file.schema.metadata or {}
        if self._file.schema.names != [_JPEG] or _CATALOG not in metadata:
            raise ValueError("not a file of thumbnails")
        self.catalog_sha256 = metadata[_CATALOG].decode()
        self._lock = threading.Lock()
        last = self._file.num_record_batches - 1
        self._count = 0 if last < 0 else last * _ROWS_A_BATCH + self._file.get_batch(last).num_rows

    def __len__(self) -> int:
        return self._count

    def jpeg(self, place: int) -> bytes:
        """The JPEG of the image at this place of the catalog."""
        with self._lock:
            batch = self._file.get_batch(place // _ROWS_A_BATCH)
        return bytes(batch.column(0)[place % _ROWS_A_BATCH].as_py())

    def jpegs(self, places: NDArray[np.int64]) -> Iterator[list[bytes]]:
        """Those of many places, ascending, a batch of the file at a time."""
        if len(places) == 0:
            return
        batches = places // _ROWS_A_BATCH
        for rows in np.split(places, np.flatnonzero(np.diff(batches)) + 1):
            with self._lock:
                column = self._file.get_batch(int(rows[0]) // _ROWS_A_BATCH).column(0)
            yield [column[row].as_py() for row in (rows % _ROWS_A_BATCH).tolist()]
