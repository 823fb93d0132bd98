"""An index from embeddings: its lists and codes learned from a sample, then filled."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SettingError
from pipeline.search.building.filling import fill
from pipeline.search.rows import Rows, read_rows, sample_rows

_TRAINING_POINTS_PER_LIST = 64  # FAISS asks for 39 at least and uses 256 at most


class Centroids:
    """Those of inverted files that were trained: kinds with as many lists and other codes share them.

    They are what each would have learned by itself, of the same sample.
    """

    def __init__(self) -> None:
        self._known: dict[int, NDArray[np.float32]] = {}

    def give(self, index: faiss.Index) -> None:
        """Gives an index that is not trained the centroids of as many lists, if they are known."""
        inverted = faiss.try_extract_index_ivf(index)
        if inverted is not None and inverted.nlist in self._known:
            inverted.quantizer.add(self._known[inverted.nlist])

    def keep(self, index: faiss.Index) -> None:
        """Keeps those of an index that is trained."""
        inverted = faiss.try_extract_index_ivf(index)
        if inverted is not None and inverted.nlist not in self._known:
            self._known[inverted.nlist] = inverted.quantizer.reconstruct_n(0, inverted.nlist)


def build_index(
    embeddings: Sequence[Rows],
    factory: str,
    seed: int,
    held_out: NDArray[np.int64],
    centroids: Centroids | None = None,
) -> faiss.Index:
    """An inner-product index whose ids count the rows of all parts, one after the other.

    Args:
        embeddings: parts of [N, D] each, L2-normalised; may be memory maps.
        factory: FAISS's factory string.
        seed: of the sample that the index learns its lists from.
        held_out: rows that are left out, sorted; they can be added later.
        centroids: of other kinds of index, of the same embeddings, seed and rows.

    Raises:
        RuntimeError: FAISS does not know the factory string, or cannot build it from so few vectors.
    """
    index = faiss.index_factory(embeddings[0].shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        if centroids is not None:
            centroids.give(index)
        inverted = faiss.try_extract_index_ivf(index)
        if inverted is not None:
            inverted.cp.min_points_per_centroid = 1  # fewer are no fault: FAISS would warn
        index.train(_training_sample(embeddings, index, seed, held_out))
        if centroids is not None:
            centroids.keep(index)
    return fill(index, embeddings, held_out)


@contextmanager
def faiss_errors(factory: str, count: int, dimension: int) -> Iterator[None]:
    """In the block what FAISS cannot build is a mistake in params.yaml.

    Raises:
        SettingError: in place of FAISS's RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:
        # FAISS puts its own function, file and line before the reason
        reason = re.sub(r"^Error in .* at \S+:\d+: ", "", str(error).strip().splitlines()[0])
        raise SettingError(
            "index.factory",
            f"FAISS cannot build {factory!r} for {count} vectors of {dimension} dimensions ({reason})",
        ) from None


def _training_sample(
    embeddings: Sequence[Rows], index: faiss.Index, seed: int, held_out: NDArray[np.int64]
) -> NDArray[np.float32]:
    count = sum(len(part) for part in embeddings)
    try:
        num_lists = faiss.extract_index_ivf(index).nlist
    except RuntimeError:
        num_lists = 1024  # a quantiser without lists: 65,536 vectors are plenty
    size = min(count, _TRAINING_POINTS_PER_LIST * max(num_lists, 256))
    rows = sample_rows(count, size, seed)
    return read_rows(embeddings, rows[~np.isin(rows, held_out)])
