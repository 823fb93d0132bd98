"""A FAISS index of the embeddings, and its card: chosen, built, written and read."""

import math
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import Artifacts, existing, read_json, write_json
from pipeline.atomic import atomic_file
from pipeline.errors import UserError, damaged_output
from pipeline.search.tuning import exact_neighbors, tune

if TYPE_CHECKING:
    from pipeline.params.index import Index  # a type alone: a query does without pydantic

# Up to here an exact search of 512 dimensions takes a few tens of milliseconds on two cores.
_EXACT_UP_TO = 100_000
_RECALL_AT = 10
_TRAINING_POINTS_PER_LIST = 64  # FAISS asks for 39 at least and uses 256 at most


@dataclass(frozen=True)
class IndexCard:
    """What index.json says of an index.

    Attributes:
        encoder_sha256: of the encoder file whose embeddings are in it.
        dimension: D.
        count: N.
        factory: FAISS's factory string.
        search_parameters: as tuned, like nprobe; empty where there is nothing to tune.
        recall_at_10: share of the true ten nearest that the search finds, over sampled queries.
    """

    encoder_sha256: str
    dimension: int
    count: int
    factory: str
    search_parameters: dict[str, int]
    recall_at_10: float


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
        return "Flat"
    return f"IVF{2 ** round(math.log2(4 * math.sqrt(count)))},Flat"


def build_index(embeddings: Sequence[NDArray[np.float32]], factory: str, seed: int) -> faiss.Index:
    """An inner-product index whose ids count the rows of all parts, one after the other.

    Args:
        embeddings: parts of [N, D] each, L2-normalised; may be memory maps.
        factory: FAISS's factory string.
        seed: of the sample that the index learns its lists from.

    Raises:
        UserError: FAISS does not know the factory string, or cannot build it from so few vectors.
    """
    dimension = embeddings[0].shape[1]
    count = sum(len(part) for part in embeddings)
    try:
        index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(_training_sample(embeddings, index, seed))
        for part in embeddings:
            for start in range(0, len(part), _EXACT_UP_TO):
                index.add(np.ascontiguousarray(part[start : start + _EXACT_UP_TO]))
    except RuntimeError as error:
        # FAISS puts its own function, file and line before the reason
        reason = re.sub(r"^Error in .* at \S+:\d+: ", "", str(error).strip().splitlines()[0])
        raise UserError(
            f"params.yaml: index.factory: FAISS cannot build {factory!r} for {count} vectors of {dimension} "
            f"dimensions ({reason})"
        ) from None
    return index


def make_index(
    embeddings: Sequence[NDArray[np.float32]], params: "Index", encoder_sha256: str
) -> tuple[faiss.Index, IndexCard, float]:
    """Chooses, builds and tunes an index.

    Args:
        embeddings: parts of [N, D] each, in the order of the ids.
        params: the factory, the recall wanted and how many queries measure it.
        encoder_sha256: of the encoder that made them.

    Returns:
        The index, its card, and queries per second, asked one by one.
    """
    count = sum(len(part) for part in embeddings)
    factory = choose_factory(params.factory, count)
    index = build_index(embeddings, factory, params.seed)
    queries = _sample(embeddings, min(params.num_queries, count), params.seed)
    truth = exact_neighbors(embeddings, queries, min(_RECALL_AT, count))
    search_parameters, reached = tune(index, queries, truth, params.target_recall)
    started = time.perf_counter()
    for query in queries:
        index.search(query[None], truth.shape[1])
    queries_per_s = len(queries) / (time.perf_counter() - started)
    card = IndexCard(
        encoder_sha256=encoder_sha256,
        dimension=index.d,
        count=index.ntotal,
        factory=factory,
        search_parameters=search_parameters,
        recall_at_10=reached,
    )
    return index, card, queries_per_s


def write_index(index: faiss.Index, card: IndexCard, folder: Path) -> None:
    """Writes images.faiss and index.json into a folder."""
    names = Artifacts()
    with atomic_file(folder / names.index.name) as partial:
        try:
            faiss.write_index(index, str(partial))
        except RuntimeError as error:
            raise OSError(f"{folder / names.index.name}: FAISS cannot write it: {error}") from None
    write_json(folder / names.index_card.name, asdict(card))


def read_card(path: Path) -> IndexCard:
    """Reads index.json.

    Raises:
        UserError: the file is missing, damaged or has other keys.
    """
    try:
        return IndexCard(**read_json(path, made_by="index"))
    except TypeError:
        raise damaged_output(path, "not of this version of Lookalike", "index") from None


def read_index(path: Path) -> faiss.Index:
    """Reads images.faiss.

    Raises:
        UserError: the file is missing or damaged.
    """
    existing(path, made_by="index")
    try:
        return faiss.read_index(str(path))
    except RuntimeError:
        if not path.is_file():
            raise
        path.open("rb").close()  # no permission is not damage: let it be said
        raise damaged_output(path, "not a whole FAISS index", "index") from None


def _training_sample(
    embeddings: Sequence[NDArray[np.float32]], index: faiss.Index, seed: int
) -> NDArray[np.float32]:
    count = sum(len(part) for part in embeddings)
    try:
        num_lists = faiss.extract_index_ivf(index).nlist
    except RuntimeError:
        num_lists = 1024  # a quantiser without lists: 65,536 vectors are plenty
    return _sample(embeddings, min(count, _TRAINING_POINTS_PER_LIST * max(num_lists, 256)), seed)


def _sample(embeddings: Sequence[NDArray[np.float32]], size: int, seed: int) -> NDArray[np.float32]:
    """Rows of all parts, [size, D], drawn without replacement."""
    ends = np.cumsum([len(part) for part in embeddings])
    chosen = np.sort(np.random.default_rng(seed).choice(ends[-1], size, replace=False))
    parts = [
        part[chosen[(chosen >= end - len(part)) & (chosen < end)] - (end - len(part))]
        for part, end in zip(embeddings, ends, strict=True)
    ]
    return np.ascontiguousarray(np.concatenate(parts))
