"""A part of an index that is written anew: what is left of old parts, and new images behind them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import faiss
import numpy as np
import pyarrow
from numpy.typing import NDArray

from pipeline.arrays import create_array
from pipeline.artifacts import sha256_of
from pipeline.search.files.card import PartCard
from pipeline.search.files.catalog import CatalogWriter
from pipeline.search.files.faiss_file import write_sealed
from pipeline.search.index_folder import IndexFolder, write_thumbnails
from pipeline.search.live import Live, Part
from pipeline.search.rows import Chosen, Rows, chunks


class Images(Protocol):
    """Images that go into a part, in the order of their ids.

    Attributes:
        vectors: their embeddings, [N, D].
    """

    @property
    def vectors(self) -> Rows: ...

    def tables(self) -> Iterator[pyarrow.Table]:
        """Their rows of the catalog."""
        ...

    def jpegs(self) -> Iterator[Sequence[bytes]]:
        """Their thumbnails."""
        ...


@dataclass(frozen=True)
class Left:
    """The images of a part that were not removed."""

    part: Part
    rows: NDArray[np.int64]

    @property
    def vectors(self) -> Rows:
        return Chosen(self.part.stored, self.rows)

    def tables(self) -> Iterator[pyarrow.Table]:
        first = 0
        for table in self.part.catalog.tables():
            here = self.rows[(self.rows >= first) & (self.rows < first + len(table))] - first
            yield table if len(here) == len(table) else table.take(pyarrow.array(here))
            first += len(table)

    def jpegs(self) -> Iterator[Sequence[bytes]]:
        assert self.part.thumbnails is not None
        yield from self.part.thumbnails.jpegs(self.rows)


def left_of(live: Live, part: Part) -> Left:
    """The images of a part that can be found."""
    if live.is_live is None:
        return Left(part, np.arange(part.card.count))
    return Left(part, np.flatnonzero(live.is_live[part.places]))


def num_absorbed(sizes: Sequence[int], num_new: int) -> int:
    """How many of the last segments go into the new one.

    A segment that is less than twice as large as all that comes behind it is taken along. So each segment is
    at least twice as large as the next, of N added images there are at most log2(N) + 1, and an image is
    written anew at most about log1.5(N) times, however they come.

    Args:
        sizes: images of each segment, the oldest first.
        num_new: images that are added.

    Source: Bentley and Saxe 1980, "Decomposable searching problems I: static-to-dynamic transformation",
        Journal of Algorithms 1(4): the logarithmic method.
    """
    absorbed, size = 0, num_new
    while absorbed < len(sizes) and sizes[-1 - absorbed] < 2 * size:
        size += sizes[-1 - absorbed]
        absorbed += 1
    return absorbed


def exact_index(images: Sequence[Images], dimension: int) -> faiss.Index:
    """An index of all their embeddings that misses nothing."""
    index = faiss.IndexFlatIP(dimension)
    for _, rows in chunks([each.vectors for each in images]):
        index.add(rows)
    return index


def write_part(
    folder: IndexFolder, name: str, index: faiss.Index, images: Sequence[Images], with_thumbnails: bool
) -> PartCard:
    """Writes the files of a part.

    Args:
        folder: of the new generation.
        name: of the part.
        index: of the embeddings of all images.
        images: one after the other, in the order of their ids.
        with_thumbnails: whether they have some.

    Raises:
        OSError: the disk has no room for it.
    """
    files = folder.files_of(name)
    seal = write_sealed(index, files.index)
    with CatalogWriter(files.catalog) as catalog:
        for each in images:
            for table in each.tables():
                catalog.add(table)
    catalog_sha256 = sha256_of(files.catalog)
    if with_thumbnails:
        jpegs = (some for each in images for some in each.jpegs())
        write_thumbnails(files.thumbnails, catalog_sha256, jpegs)
    return PartCard(
        name=name,
        count=index.ntotal,
        index_sha256=sha256_of(files.index),
        index_seal=seal,
        catalog_sha256=catalog_sha256,
        thumbnails_sha256=sha256_of(files.thumbnails) if with_thumbnails else None,
    )


def write_removed(path: Path, ids: NDArray[np.int64]) -> str | None:
    """Writes the ids that stand in the files and are not found any more, ascending; gives its sha256.

    None where there are none, and then no file either.
    """
    if len(ids) == 0:
        return None
    create_array(path, np.int64, ids.shape)[:] = ids
    return sha256_of(path)
