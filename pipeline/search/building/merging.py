"""The FAISS file of an inverted file that was filled in parts, and never is in memory whole.

FAISS writes what an index is, with its centroids; the lists, one after the other; and, where vectors or
longer codes rank anew, what those are, and they. Here lists and codes are put between FAISS's own bytes of
the empty index. The file is the one that `faiss.write_index` writes of the same index, to the byte.

Source: `write_InvertedLists` in faiss/impl/index_write.cpp, FAISS 1.15.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np

from pipeline.search.files.faiss_file import writing
from pipeline.search.rows import Rows, chunks

# N rows of all parts, L lists, P parts

_NO_LISTS_BYTES = 32  # "ilar", L, the size of a code, "sprs", and that no sizes follow
_NO_CODES_BYTES = 8  # how many there are


def can_be_merged(index: faiss.Index) -> bool:
    """Whether this is an inverted file of vectors or scalar codes, with or without others to rank anew."""
    if isinstance(index, faiss.IndexRefine):
        of_what = faiss.downcast_index(index.refine_index)
        kinds = faiss.IndexFlat | faiss.IndexScalarQuantizer
        return isinstance(of_what, kinds) and _has_lists(faiss.downcast_index(index.base_index))
    return _has_lists(index)


def write_merged(
    path: Path, empty: faiss.Index, lists: Sequence[faiss.InvertedLists], embeddings: Sequence[Rows]
) -> None:
    """Writes the index that has these lists, one after the other.

    Args:
        path: of the file.
        empty: trained, of a kind that `can_be_merged`.
        lists: of P parts, whose ids ascend from part to part.
        embeddings: all that is in the lists, [N, D], in the order of the ids.

    Raises:
        OSError: the disk has no room for it.
    """
    frame = _frame_of(empty, sum(len(part) for part in embeddings))
    with writing(path), path.open("wb") as file:
        file.write(frame.before_lists)
        _write_lists(file, lists)
        file.write(frame.before_codes)
        if isinstance(empty, faiss.IndexRefine):
            for _, rows in chunks(embeddings):
                file.write(empty.refine_index.sa_encode(rows).data)
        file.write(frame.end)


def write_parameters(path: Path, empty: faiss.Index, count: int) -> None:
    """Writes into a merged file what the empty index is set to, like nprobe; nothing else changes in it."""
    frame = _frame_of(empty, count)
    with writing(path), path.open("r+b") as file:
        file.write(frame.before_lists)
        file.seek(-len(frame.end), 2)
        file.write(frame.end)


@dataclass(frozen=True)
class _Frame:
    before_lists: bytes
    before_codes: bytes
    end: bytes


def _frame_of(empty: faiss.Index, count: int) -> _Frame:
    """What FAISS writes around the lists and the codes of so many rows."""
    with _claiming(empty, count) as (inverted, refining):
        whole, of_lists = _serialized(empty), _serialized(inverted)
        lists_end = whole.index(of_lists) + len(of_lists)
        before_lists = whole[: lists_end - _NO_LISTS_BYTES]
        assert whole[len(before_lists) :].startswith(b"ilar")
        if refining is None:
            assert lists_end == len(whole)
            return _Frame(before_lists, b"", b"")
        of_codes = _serialized(refining)
        assert of_codes.endswith(bytes(_NO_CODES_BYTES))
        # FAISS counts the numbers of vectors, and the bytes of codes
        unit = 4 if isinstance(refining, faiss.IndexFlat) else 1
        size = struct.pack("<Q", count * refining.sa_code_size() // unit)
        end = whole[lists_end + len(of_codes) :]
        return _Frame(before_lists, of_codes[:-_NO_CODES_BYTES] + size, end)


def _write_lists(file: BinaryIO, lists: Sequence[faiss.InvertedLists]) -> None:
    num_lists, code_size = lists[0].nlist, lists[0].code_size
    sizes_PL = np.array([[part.list_size(number) for number in range(num_lists)] for part in lists])
    sizes = sizes_PL.sum(axis=0).astype(np.uint64)
    filled = np.flatnonzero(sizes)
    is_full = len(filled) > num_lists // 2
    named = sizes if is_full else np.stack([filled.astype(np.uint64), sizes[filled]], axis=1).ravel()
    file.write(struct.pack("<4sQQ", b"ilar", num_lists, code_size))
    file.write(struct.pack("<4sQ", b"full" if is_full else b"sprs", len(named)) + named.tobytes())
    for number in filled.tolist():
        holding = [part for part, size in zip(lists, sizes_PL[:, number], strict=True) if size]
        for part in holding:
            file.write(faiss.rev_swig_ptr(part.get_codes(number), part.list_size(number) * code_size).data)
        for part in holding:
            file.write(faiss.rev_swig_ptr(part.get_ids(number), part.list_size(number)).data)


@contextmanager
def _claiming(empty: faiss.Index, count: int) -> Iterator[tuple[faiss.IndexIVF, faiss.Index | None]]:
    """In the block an empty index says that it has so many rows; its inverted file, and what ranks anew."""
    inverted = faiss.extract_index_ivf(empty)
    refining = faiss.downcast_index(empty.refine_index) if isinstance(empty, faiss.IndexRefine) else None
    every = [each for each in (empty, inverted, refining) if each is not None]
    for each in every:
        each.ntotal = count
    try:
        yield inverted, refining
    finally:
        for each in every:
            each.ntotal = 0


def _serialized(index: faiss.Index) -> bytes:
    return bytes(faiss.serialize_index(index))


def _has_lists(index: faiss.Index) -> bool:
    # and no kind that is made of one of these, which would write something else
    if type(index) not in (faiss.IndexIVFFlat, faiss.IndexIVFScalarQuantizer):
        return False
    lists: Any = faiss.extract_index_ivf(index).invlists
    return isinstance(faiss.downcast_InvertedLists(lists), faiss.ArrayInvertedLists)
