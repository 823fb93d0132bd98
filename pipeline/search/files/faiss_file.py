"""FAISS's own files: written with a seal behind them, read within the bounds of their size."""

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np

_SEAL_BYTES = hashlib.sha256().digest_size
# FAISS takes the room for a table before it reads it. One of a file is no larger than the file, and no loop
# over it has more steps than it has bytes; but for some that are computed of a small codebook.
_TABLE_AT_LEAST = 64 << 20  # bytes
_STEPS_AT_LEAST = 1 << 20
_limits = threading.Lock()  # they are the process's, not the reader's


def read_faiss(path: Path, *, into_memory: bool = False) -> faiss.Index:
    """Reads an index, memory-mapped unless it is to be changed.

    A file that claims more than it holds is refused before memory is taken for it. What FAISS would compute
    for distances of L2 alone is left out: it is as large as 2 GiB, whatever the file.

    Args:
        path: of the file.
        into_memory: all of it; what is mapped cannot be changed.

    Raises:
        RuntimeError: FAISS cannot read it.
    """
    kinds: Any = faiss  # whose type stubs lack these
    flags = kinds.IO_FLAG_SKIP_PRECOMPUTE_TABLE | (0 if into_memory else kinds.IO_FLAG_MMAP_IFC)
    size = path.stat().st_size if path.is_file() else 0
    with _limits:
        before = kinds.get_deserialization_vector_byte_limit(), kinds.get_deserialization_loop_limit()
        kinds.set_deserialization_vector_byte_limit(max(size, _TABLE_AT_LEAST) + 1)  # it is to be below
        kinds.set_deserialization_loop_limit(max(size, _STEPS_AT_LEAST))
        try:
            return faiss.read_index(str(path), flags)
        finally:
            kinds.set_deserialization_vector_byte_limit(before[0])
            kinds.set_deserialization_loop_limit(before[1])


def ids_are_rows(index: faiss.Index) -> bool:
    """Whether every id that its inverted lists hold is a row of it, and stands there once; reads all of them.

    FAISS takes them as they stand in the file.
    """
    kinds: Any = faiss
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        return ids_are_rows(index.base_index)
    if isinstance(index, faiss.IndexPreTransform | faiss.IndexIDMap):
        return ids_are_rows(index.index)
    if not isinstance(index, faiss.IndexIVF):
        return True
    lists: Any = index.invlists
    sizes = [lists.list_size(number) for number in range(index.nlist)]
    if sum(sizes) != index.ntotal:
        return False
    is_there = np.zeros(index.ntotal, dtype=np.bool_)
    for number, size in enumerate(sizes):
        if size:
            ids = kinds.rev_swig_ptr(lists.get_ids(number), size)
            if ids.min() < 0 or ids.max() >= index.ntotal:
                return False
            is_there[ids] = True
    return bool(is_there.all())


def looks_up_ids(index: faiss.Index) -> bool:
    """Whether FAISS looks something up by the ids of inverted lists, within no bounds, before it answers."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return looks_up_ids(index.index)
    is_by_ids = isinstance(index, faiss.IndexRefine | faiss.IndexIDMap)
    return is_by_ids and faiss.try_extract_index_ivf(index) is not None


def write_sealed(index: faiss.Index, path: Path) -> str:
    """Writes an index, and behind it the sha256 of its bytes; gives that, in hexadecimal.

    Raises:
        OSError: the disk has no room for it.
    """
    digest = hashlib.sha256()
    # through Python's file: where the disk is full at the last bytes FAISS's own raises nothing
    with writing(path), path.open("wb") as file:

        def write(content: bytes) -> int:
            digest.update(content)
            return file.write(content)

        faiss.write_index(index, faiss.PyCallbackIOWriter(write))  # type: ignore[attr-defined]
        file.write(digest.digest())
    return digest.hexdigest()


def move_sealed(file: Path, path: Path) -> str:
    """Moves a file that FAISS reads, and writes behind it the sha256 of its bytes; gives that, as above.

    Raises:
        OSError: the disk has no room for it.
    """
    file.replace(path)
    with writing(path), path.open("r+b") as moved:
        digest = hashlib.file_digest(moved, "sha256")  # to the end
        moved.write(digest.digest())
    return digest.hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """In the block what the system refuses is said of this file, whose name Python's writes do not know."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def seal_of(path: Path) -> str:
    """What a file that was written with a seal ends in."""
    with path.open("rb") as file:
        file.seek(-_SEAL_BYTES, os.SEEK_END)
        return file.read().hex()
