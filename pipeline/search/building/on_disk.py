"""An inverted file that the memory does not hold: filled a shard at a time, and merged on disk."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.search.building.build import train_in_little, untrained
from pipeline.search.building.cost import bytes_per_vector
from pipeline.search.building.merging import can_be_merged, write_merged, write_parameters
from pipeline.search.building.tuning import set_search_parameters
from pipeline.search.files.faiss_file import read_faiss, write_sealed
from pipeline.search.rows import Rows, chunks

# N rows of all parts, D dimensions

_GROWTH = 2  # a list takes up to so many times the memory of what is in it


@dataclass(frozen=True)
class Merged:
    """An index on disk.

    Attributes:
        path: of its file.
        index: of all rows, memory-mapped.
        empty: the same without its rows, which is what can be changed.
    """

    path: Path
    index: faiss.Index
    empty: faiss.Index

    def set_parameters(self, parameters: Mapping[str, int]) -> None:
        """Sets parameters like nprobe, of the index that is open and in its file."""
        set_search_parameters(self.index, parameters)
        set_search_parameters(self.empty, parameters)
        write_parameters(self.path, self.empty, self.index.ntotal)


def is_too_large(factory: str, count: int, dim: int, memory_gib: float) -> bool:
    """Whether an index of so many rows takes more memory than that, and can be merged on disk.

    Raises:
        RuntimeError: FAISS does not know the factory string.
    """
    index = untrained(factory, dim)
    return can_be_merged(index) and count * bytes_per_vector(index) > memory_gib * 2**30


def build_on_disk(
    embeddings: Sequence[Rows],
    factory: str,
    seed: int,
    held_out: NDArray[np.int64],
    memory_gib: float,
    scratch: Path,
) -> Merged:
    """Trains an index, fills it in shards that the memory holds, and merges them.

    Args:
        embeddings: parts of [N, D] each, of which a chunk is in memory at a time.
        factory: of a kind that `can_be_merged`.
        seed: of the sample that the index learns its lists from.
        held_out: rows that it learns nothing of, sorted; they are in the index.
        memory_gib: for the sample, and then for a shard; centroids come to it.
        scratch: a folder, on the disk that the index goes to, for all shards and the merged file beside them.

    Raises:
        SettingError: the memory does not hold a sample that is large enough.
        OSError: the disk has no room for it.
    """
    memory = int(memory_gib * 2**30)
    empty = train_in_little(embeddings, factory, seed, held_out, memory)
    code_and_id = bytes_per_vector(faiss.extract_index_ivf(empty))
    rows_a_shard = max(1, int(memory / (_GROWTH * code_and_id)))
    merged = scratch / "merged.faiss"
    with tempfile.TemporaryDirectory(prefix="shards.", dir=scratch) as folder:
        # all stay open: what is mapped of them is no memory of the process's own
        shards = [read_faiss(path) for path in _write_shards(Path(folder), empty, embeddings, rows_a_shard)]
        lists: list[Any] = [faiss.extract_index_ivf(shard).invlists for shard in shards]
        write_merged(merged, empty, lists, embeddings)
    return Merged(merged, read_faiss(merged), empty)


def _write_shards(
    folder: Path, empty: faiss.Index, embeddings: Sequence[Rows], rows_a_shard: int
) -> Iterator[Path]:
    """The lists of so many rows after one another, each a FAISS file of the inverted file alone."""
    shard, number = _without_rows(empty), 0
    count = sum(len(part) for part in embeddings)
    for first, rows in chunks(embeddings):
        for start in _cuts(first, first + len(rows), rows_a_shard):
            end = min(start - start % rows_a_shard + rows_a_shard, first + len(rows))
            shard.add_with_ids(rows[start - first : end - first], np.arange(start, end))
            if end % rows_a_shard == 0 or end == count:
                path = folder / f"{number}.faiss"
                write_sealed(shard, path)
                shard, number = _without_rows(empty), number + 1
                yield path


def _without_rows(empty: faiss.Index) -> Any:
    """An inverted file of its own, with no memory that other rows have taken."""
    return faiss.clone_index(faiss.downcast_index(faiss.extract_index_ivf(empty)))


def _cuts(first: int, end: int, size: int) -> list[int]:
    """Where pieces of the rows from `first` to `end` begin that do not reach beyond a multiple of `size`."""
    return [first, *range(first - first % size + size, end, size)]
