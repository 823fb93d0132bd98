"""A FAISS index of the embeddings: chosen, built, and tuned to the recall that was asked for."""

import math
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.search.files.card import Built
from pipeline.search.rows import Rows, chunks, read_rows, sample_rows
from pipeline.search.tuning import exact_neighbors, tune

if TYPE_CHECKING:
    from pipeline.params.index import Index  # a type alone: a query does without pydantic

# Up to here an exact search of 512 dimensions takes a few tens of milliseconds on two cores.
_EXACT_UP_TO = 100_000
EXACT = "Flat"
RECALL_AT = 10
HELD_OUT_AT_MOST = 10  # of so many images one: what is searched is nearly all of the collection
_TRAINING_POINTS_PER_LIST = 64  # FAISS asks for 39 at least and uses 256 at most


def choose_factory(factory: str, count: int) -> str:
    """`auto` becomes exact search for up to 100,000 images, else an inverted file; others stay.

    Args:
        factory: `auto` or any factory string of FAISS.
        count: N, of the vectors.

    Returns:
        A factory string; of an inverted file with about 4 sqrt(N) lists, as FAISS's guidelines have it.
    """
    if factory != "auto":
        return factory
    if count <= _EXACT_UP_TO:
        return EXACT
    return f"IVF{2 ** round(math.log2(4 * math.sqrt(count)))},Flat"


def make_index(embeddings: Sequence[Rows], params: "Index") -> tuple[faiss.Index, Built, float]:
    """Chooses, builds and tunes an index, with queries that are not in it until that is done.

    An image that is in an index finds itself, which no new one does; and in a graph it is found more easily
    even when its own hit does not count: HNSW32 of 100,000 x 64 found 0.968 of the others of its own images
    and 0.881 of those of new ones.

    Args:
        embeddings: parts of [N, D] each, in the order of the ids; of memory maps a chunk is read at a time.
        params: the factory, the recall wanted and how many queries measure it.

    Returns:
        The index, how it was built, and queries per second, asked one by one.

    Raises:
        UserError: FAISS does not know the factory string, or cannot build it from so few vectors.
    """
    count = sum(len(part) for part in embeddings)
    factory = choose_factory(params.factory, count)
    asked = sample_rows(count, min(params.num_queries, count // HELD_OUT_AT_MOST), params.seed)
    queries = read_rows(embeddings, asked)
    with faiss_errors(factory, count, embeddings[0].shape[1]):
        if factory == EXACT:  # it misses nothing
            index = build_index(embeddings, factory, params.seed, held_out=asked[:0])
            search_parameters, reached = dict[str, int](), 1.0
            queries_per_s = _queries_per_s(index, queries)
        else:
            index = build_index(embeddings, factory, params.seed, held_out=asked)
            truth = exact_neighbors(embeddings, queries, min(RECALL_AT, count - len(asked)), asked)
            search_parameters, reached = tune(index, queries, truth, params.target_recall)
            queries_per_s = _queries_per_s(index, queries)
            if len(asked):
                add_held_out(index, queries, asked)
    built = Built(
        dimension=index.d,
        count=index.ntotal,
        factory=factory,
        search_parameters=search_parameters,
        recall_at_10=reached,
        target_recall=params.target_recall,
    )
    return index, built, queries_per_s


def build_index(
    embeddings: Sequence[Rows], factory: str, seed: int, held_out: NDArray[np.int64]
) -> faiss.Index:
    """An inner-product index whose ids count the rows of all parts, one after the other.

    Args:
        embeddings: parts of [N, D] each, L2-normalised; may be memory maps.
        factory: FAISS's factory string.
        seed: of the sample that the index learns its lists from.
        held_out: rows that are left out, sorted; they can be added later.

    Raises:
        RuntimeError: FAISS does not know the factory string, or cannot build it from so few vectors.
    """
    index = faiss.index_factory(embeddings[0].shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        index.train(_training_sample(embeddings, index, seed, held_out))
    return fill(index, embeddings, held_out)


def fill(index: faiss.Index, embeddings: Sequence[Rows], held_out: NDArray[np.int64]) -> faiss.Index:
    """Adds the rows of all parts to an index that is trained and empty.

    Args:
        index: of the embeddings' dimension.
        embeddings: parts of [N, D] each.
        held_out: rows that are left out, sorted; they can be added later, by `add_held_out`.

    Returns:
        The index, or one around it that takes ids.
    """
    if len(held_out) and not _takes_ids(index):
        index = faiss.IndexIDMap2(index)
    by_id = len(held_out) > 0 or isinstance(index, faiss.IndexIDMap)
    for first, rows in chunks(embeddings):
        ids = np.arange(first, first + len(rows))
        kept = ~np.isin(ids, held_out)
        if by_id:
            add_held_out(index, rows[kept], ids[kept])
        else:
            index.add(rows)
    return index


def add_held_out(index: faiss.Index, rows: NDArray[np.float32], ids: NDArray[np.int64]) -> None:
    """Adds embeddings, [n, D], under ids that are not in the index, [n]."""
    index.add_with_ids(np.ascontiguousarray(rows), ids)


@contextmanager
def faiss_errors(factory: str, count: int, dimension: int) -> Iterator[None]:
    """In the block what FAISS cannot build is a mistake in params.yaml.

    Raises:
        UserError: in place of FAISS's RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:
        # FAISS puts its own function, file and line before the reason
        reason = re.sub(r"^Error in .* at \S+:\d+: ", "", str(error).strip().splitlines()[0])
        raise UserError(
            f"params.yaml: index.factory: FAISS cannot build {factory!r} for {count} vectors of {dimension} "
            f"dimensions ({reason})"
        ) from None


def _takes_ids(index: faiss.Index) -> bool:
    """Whether vectors can be added under ids of one's own: inverted files can."""
    try:
        add_held_out(index, np.empty((0, index.d), dtype=np.float32), np.empty(0, dtype=np.int64))
    except RuntimeError:
        return False
    return True


def _queries_per_s(index: faiss.Index, queries: NDArray[np.float32]) -> float:
    if len(queries) == 0:
        return 0.0
    started = time.perf_counter()
    for query in queries:
        index.search(query[None], RECALL_AT)
    return len(queries) / (time.perf_counter() - started)


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
