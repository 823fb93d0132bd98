"""An index from embeddings: its lists and codes learned from a sample, then filled."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SettingError
from pipeline.search.building.filling import fill
from pipeline.search.rows import Rows, read_rows, sample_rows

_POINTS_PER_LIST = 64  # that are learned from; FAISS uses 256 at most
_POINTS_AT_LEAST = 39  # as FAISS asks for
_COPIES = 3  # of what codes learn from: itself, FAISS's choice of it, and that less its centroids


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
    index = untrained(factory, embeddings[0].shape[1])
    if not index.is_trained:
        if centroids is not None:
            centroids.give(index)
        index.train(read_rows(embeddings, _training_rows(embeddings, index, seed, held_out)))
        if centroids is not None:
            centroids.keep(index)
    return fill(index, embeddings, held_out)


def train_in_little(
    embeddings: Sequence[Rows], factory: str, seed: int, held_out: NDArray[np.int64], memory: int
) -> faiss.Index:
    """A trained and empty index, an inverted file, as `build_index` trains it where the memory is enough.

    Where it is not, centroids and codes learn from fewer rows.

    Args:
        embeddings: parts of [N, D] each.
        factory: FAISS's factory string.
        seed: of the sample.
        held_out: rows that nothing is learned from, sorted.
        memory: for the sample and what FAISS makes of it, bytes.

    Raises:
        SettingError: it does not hold as many rows as FAISS asks for.
    """
    count, dim = sum(len(part) for part in embeddings), embeddings[0].shape[1]
    index = untrained(factory, dim)
    inverted: Any = faiss.extract_index_ivf(index)  # whose type stubs lack most of it
    row_bytes = 4 * dim
    if inverted.nlist > learned_in(memory, dim) and memory < count * row_bytes:
        least = min(count, _POINTS_AT_LEAST * inverted.nlist) * row_bytes
        raise SettingError(
            "index.memory_gib",
            f"{memory / 2**30:.2g} is too little to learn {inverted.nlist} lists of {dim} dimensions: that "
            f"takes {rounded_up(least / 2**30):g}, or a factory of fewer lists",
        )
    sample = _training_rows(embeddings, index, seed, held_out, memory // row_bytes)
    rows = read_rows(embeddings, sample)
    inverted.train_q1(len(rows), faiss.swig_ptr(rows), False, inverted.metric_type)
    # beside what codes learn from FAISS makes a choice of it, and what is left of that behind the centroids
    step = -(-_COPIES * rows.nbytes // memory)
    if step > 1:
        del rows  # before the next are read
        rows = read_rows(embeddings, sample[::step])
    index.train(rows)
    return index


def learned_in(memory: int, dim: int) -> int:
    """How many lists at most are learned in so many bytes."""
    return memory // (_POINTS_AT_LEAST * 4 * dim)


def rounded_up(gib: float) -> float:
    """To a thousandth, so that what is said to be enough is."""
    return math.ceil(1000 * gib) / 1000


def untrained(factory: str, dim: int) -> faiss.Index:
    """An inner-product index as FAISS makes it.

    Raises:
        RuntimeError: FAISS does not know the factory string.
    """
    index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    inverted = faiss.try_extract_index_ivf(index)
    if inverted is not None:
        inverted.cp.min_points_per_centroid = 1  # fewer are no fault: FAISS would warn
    return index


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


def _training_rows(
    embeddings: Sequence[Rows],
    index: faiss.Index,
    seed: int,
    held_out: NDArray[np.int64],
    most: int | None = None,
) -> NDArray[np.int64]:
    """The rows that an index learns from, sorted, so many at most."""
    count = sum(len(part) for part in embeddings)
    inverted = faiss.try_extract_index_ivf(index)
    num_lists = 1024 if inverted is None else inverted.nlist  # a quantiser without lists: 65,536 are plenty
    size = min(count, _POINTS_PER_LIST * max(num_lists, 256))
    rows = sample_rows(count, size if most is None else min(size, most), seed)
    return rows[~np.isin(rows, held_out)]
