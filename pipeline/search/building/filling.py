"""Embeddings go into a trained index: all of them but for some, and those later, each under its own id."""

from collections.abc import Sequence

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.search.rows import Rows, chunks

# N rows of all parts, D dimensions


def fill(index: faiss.Index, embeddings: Sequence[Rows], held_out: NDArray[np.int64]) -> faiss.Index:
    """Adds the rows of all parts to an index that is trained and empty.

    Args:
        index: of the embeddings' dimension.
        embeddings: parts of [N, D] each.
        held_out: rows that cannot be found yet, sorted; `add_held_out` adds them.

    Returns:
        The index, or one around it that takes ids.
    """
    takes_ids = isinstance(index, faiss.IndexIDMap) or faiss.try_extract_index_ivf(index) is not None
    if len(held_out) and not takes_ids:
        index = faiss.IndexIDMap2(index)
    for first, rows in chunks(embeddings):
        if len(held_out) == 0 and not isinstance(index, faiss.IndexIDMap):
            index.add(rows)
            continue
        ids = np.arange(first, first + len(rows))
        kept = ~np.isin(ids, held_out)
        if isinstance(index, faiss.IndexRefine):
            # what is found first has ids of its own; what it is refined by lies in the order of the ids
            index.refine_index.add(rows)
            add_held_out(index, rows[kept], ids[kept])
        else:
            index.add_with_ids(np.ascontiguousarray(rows[kept]), ids[kept])
    return index


def add_held_out(index: faiss.Index, rows: NDArray[np.float32], ids: NDArray[np.int64]) -> None:
    """Adds embeddings, [n, D], under ids that cannot be found yet, [n]."""
    if isinstance(index, faiss.IndexRefine):
        index.base_index.add_with_ids(np.ascontiguousarray(rows), ids)
        index.ntotal = index.refine_index.ntotal  # FAISS holds every id that it ranks anew against it
    else:
        index.add_with_ids(np.ascontiguousarray(rows), ids)
