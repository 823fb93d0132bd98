"""FAISS: choose, build, tune, save, open and search an index of the embeddings."""

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import Artifacts, atomic_file, existing, read_json, write_json
from pipeline.encoder.runtime import Encoder
from pipeline.errors import UserError
from pipeline.images import read_image

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.params.reader import Device
    from pipeline.params.reader import Index as IndexParams

# Up to here an exact search of 512 dimensions takes a few tens of milliseconds on two cores.
_EXACT_UP_TO = 100_000
_RECALL_AT = 10
# What trades speed for recall, by the kind of index; doubled until the recall is reached.
_SEARCH_PARAMETERS = ("nprobe", "efSearch")
_SEARCH_PARAMETER_LIMIT = 4096
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


@dataclass(frozen=True)
class Neighbor:
    """One row of an answer."""

    rank: int
    score: float
    class_name: str | None
    id: int
    source: str
    split: str


class ImageIndex:
    """A searchable collection: the encoder, the index, and what is known of each image."""

    def __init__(self, data: Artifacts, encoder: Encoder, index: faiss.Index, card: IndexCard) -> None:
        self.encoder = encoder
        self.card = card
        self._data = data
        self._index = index

    @classmethod
    def open(cls, root: Path | str = "data", device: "Device" = "auto") -> Self:
        """Opens the outputs of a run of the chain.

        Args:
            root: the folder that holds encoder/, index/ and images/.
            device: what the encoder runs on.

        Raises:
            UserError: a file is missing or damaged, or encoder, index and manifest are not of one run; the
                message names the file, the values and the command that mends it.
            MachineError: `cuda` where there is none.
        """
        data = Artifacts(Path(root))
        encoder = Encoder.open(data.encoder, device)
        card = read_card(data.index_card)
        index = _read_faiss(data.index)
        _check_contract(data, encoder, index, card)
        set_search_parameters(index, card.search_parameters)
        return cls(data, encoder, index, card)

    def __len__(self) -> int:
        return self.card.count

    def search(self, image: Path | str | NDArray[np.uint8], k: int = 10) -> "pd.DataFrame":
        """The k images that look most alike, as a table: rank, score, class_name, id, source, split.

        Args:
            image: a file, or RGB pixels uint8 [H, W, 3] of the encoder's size.
            k: from 1 to the size of the index.

        Raises:
            UserError: the file cannot be read, or k is out of range.
        """
        import pandas as pd  # 0.6 s that the command line does without

        return pd.DataFrame([asdict(neighbor) for neighbor in self.neighbors(image, k)])

    def neighbors(self, image: Path | str | NDArray[np.uint8], k: int = 10) -> list[Neighbor]:
        """Like `search`, as a list from the nearest on; the score is the cosine similarity."""
        if not 1 <= k <= len(self):
            raise UserError(f"k is {k}, the index holds {len(self)} images: choose k from 1 to {len(self)}")
        if not isinstance(image, np.ndarray):
            image = read_image(Path(image), self.encoder.image_size)
        similarities, ids = self._index.search(self.encoder(image[None]), k)
        rows = _manifest_rows(self._data.manifest, ids[0])
        return [
            Neighbor(
                rank=rank,
                score=float(score),
                class_name=row["class_name"],
                id=row["id"],
                source=row["source"],
                split=row["split"],
            )
            for rank, (score, row) in enumerate(zip(similarities[0], rows, strict=True), start=1)
        ]

    def pixels(self, id: int) -> NDArray[np.uint8]:  # noqa: A002
        """The pixels of an image of the collection, uint8 [H, W, 3]."""
        first = 0
        for split in self._data.splits():
            images = self._data.read_images(split)
            if id < first + len(images):
                return np.asarray(images[id - first])
            first += len(images)
        raise UserError(f"there is no image {id}: the ids go from 0 to {first - 1}")


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


def tune(
    index: faiss.Index, queries: NDArray[np.float32], truth: NDArray[np.int64], target_recall: float
) -> tuple[dict[str, int], float]:
    """Raises the index's search parameter until the recall is reached.

    Args:
        index: built; it keeps the parameter that is found.
        queries: [Q, D].
        truth: ids of their exact nearest, [Q, k].
        target_recall: of the k nearest.

    Returns:
        The parameter's name and value (nothing for an index that has none), and the recall.
    """
    tunable = [name for name in _SEARCH_PARAMETERS if _accepts(index, name)]
    if not tunable:
        return {}, recall(index, queries, truth)
    value = 1
    while True:
        set_search_parameters(index, {tunable[0]: value})
        reached = recall(index, queries, truth)
        if reached >= target_recall or value >= _SEARCH_PARAMETER_LIMIT:
            return {tunable[0]: value}, reached
        value *= 2


def recall(index: faiss.Index, queries: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    """The share of `truth`, ids [Q, k], that the index finds among its own k nearest of `queries`, [Q, D]."""
    _, found = index.search(queries, truth.shape[1])
    hits = (found[:, :, None] == truth[:, None, :]).any(axis=1)
    return float(hits.mean())


def exact_neighbors(
    embeddings: Sequence[NDArray[np.float32]], queries: NDArray[np.float32], k: int
) -> NDArray[np.int64]:
    """Ids of the k largest inner products over all parts, [Q, k]."""
    exact = build_index(embeddings, "Flat", seed=0)
    _, ids = exact.search(queries, k)
    return np.asarray(ids, dtype=np.int64)


def make_index(
    embeddings: Sequence[NDArray[np.float32]], params: "IndexParams", encoder_sha256: str
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
        raise UserError(f"{path}: not of this version of Lookalike: run 'dvc repro --force index'") from None


def set_search_parameters(index: faiss.Index, parameters: Mapping[str, int]) -> None:
    """Sets parameters like nprobe by name."""
    for name, value in parameters.items():
        faiss.ParameterSpace().set_index_parameter(index, name, value)


def _accepts(index: faiss.Index, name: str) -> bool:
    try:
        set_search_parameters(index, {name: 1})
    except RuntimeError:
        return False
    return True


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


def _read_faiss(path: Path) -> faiss.Index:
    existing(path, made_by="index")
    try:
        return faiss.read_index(str(path))
    except RuntimeError:
        if not path.is_file():
            raise
        path.open("rb").close()  # no permission is not damage: let it be said
        raise UserError(f"{path}: not a whole FAISS index: run 'dvc repro --force index'") from None


def _check_contract(data: Artifacts, encoder: Encoder, index: faiss.Index, card: IndexCard) -> None:
    """Refuses encoder, index and manifest that are not of one run."""
    mend = "run 'dvc repro index'"
    if card.encoder_sha256 != encoder.sha256:
        raise UserError(
            f"{data.index}: built with encoder {card.encoder_sha256[:12]}, but {data.encoder} is "
            f"{encoder.sha256[:12]}: {mend}"
        )
    if not index.d == card.dimension == encoder.dim:
        raise UserError(
            f"{data.index}: has {index.d} dimensions and {data.index_card} says {card.dimension}, but "
            f"{data.encoder} gives {encoder.dim}: {mend}"
        )
    import pyarrow.parquet

    try:
        num_images = pyarrow.parquet.read_metadata(existing(data.manifest, made_by="fetch")).num_rows
    except pyarrow.ArrowInvalid:
        raise UserError(f"{data.manifest}: not a parquet file: run 'dvc repro --force fetch'") from None
    if not index.ntotal == card.count == num_images:
        raise UserError(
            f"{data.index}: holds {index.ntotal} images and {data.index_card} says {card.count}, but "
            f"{data.manifest} lists {num_images}: {mend}"
        )


def _manifest_rows(path: Path, ids: NDArray[np.int64]) -> list[dict[str, Any]]:
    """The manifest's rows of these ids, in their order."""
    import pyarrow.parquet  # alone, it is imported 0.6 s sooner than pandas

    # neither read_table nor take: both import pandas
    table = pyarrow.parquet.ParquetFile(path).read(columns=["id", "split", "class_name", "source"])
    return [table.slice(id_, 1).to_pylist()[0] for id_ in ids.tolist()]
