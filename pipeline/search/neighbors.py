"""Every image of an index asks it for its nearest others."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import create_array, slices
from pipeline.search.finding import search_parameters
from pipeline.search.rows import Rows, chunks

_ANSWER_BYTES = 64 << 20
_FEWEST_ASKED = 64  # queries at once: fewer would leave cores without work


@dataclass(frozen=True)
class Neighbors:
    """The nearest others of N images.

    Attributes:
        ids: int32 [N, k], from the nearest on; -1 where an approximate index found no more.
        cosines: float32 [N, k]; what stands beside an id of -1 says nothing.
    """

    ids: NDArray[np.int32]
    cosines: NDArray[np.float32]


def neighbors_of_all(
    index: faiss.Index,
    parameters: Mapping[str, int],
    embeddings: Sequence[Rows],
    k: int,
    scratch: Path,
    among: NDArray[np.bool_] | None = None,
) -> Neighbors:
    """The k nearest others of each image, as the index finds them: 8 k bytes an image, in files.

    Args:
        index: of the embeddings, N images.
        parameters: of the search, as tuned.
        embeddings: parts of [N, D], in the order of the ids, of which a chunk is in memory at a time.
        k: of fewer others all.
        scratch: where the arrays lie, as .npy files of a new name; memory-mapped.
        among: which images may be found, [N]; None: all.

    Raises:
        RuntimeError: an index of this kind cannot search within some of its ids.
    """
    selected = search_parameters(index, parameters, among)
    count = index.ntotal
    k = min(k, (count if among is None else int(among.sum())) - 1)
    found = Neighbors(
        new_array(scratch, np.int32, (count, k)),
        new_array(scratch, np.float32, (count, k)),
    )
    # what FAISS ranks anew it lists first, id and distance, for all queries of a call
    at_once = max(_FEWEST_ASKED, _ANSWER_BYTES // (12 * (k + 1) * parameters.get("k_factor_rf", 1)))
    for first, rows in (
        (first + part.start, chunk[part])
        for first, chunk in chunks(embeddings)
        for part in slices(len(chunk), at_once)
    ):
        cosines, ids = index.search(np.ascontiguousarray(rows), k + 1, params=selected)
        here = slice(first, first + len(rows))
        is_own = ids == np.arange(first, first + len(rows))[:, None]
        is_own[~is_own.any(axis=1), k] = True  # not among those that are found: the last goes
        found.ids[here] = ids[~is_own].reshape(len(rows), k)
        found.cosines[here] = cosines[~is_own].reshape(len(rows), k)
    return found


def new_array(folder: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    """An array in a new .npy file of a folder: where memory is scarce its pages go to the disk."""
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".npy", delete=False) as file:
        return create_array(Path(file.name), dtype, shape)
