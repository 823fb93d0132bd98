"""A searchable collection: one index folder, opened and asked."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import sha256_of
from pipeline.atomic import recover_if_free
from pipeline.encoder.runtime import Encoder
from pipeline.errors import UserError, existing
from pipeline.search.files.card import IndexCard
from pipeline.search.files.settling import of_one_generation
from pipeline.search.index_folder import IndexFolder, no_encoder
from pipeline.search.live import Found, Live
from pipeline.search.pictures import pictures_of
from pipeline.search.queries import NOT_IN_THE_INDEX, Query, is_one, to_embeddings, unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from pipeline.params.section import Device  # a type alone: a query reads no params.yaml


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
    """A searchable collection: the encoder, the index, and what is known of each image.

    What is open answers on from its own generation when the folder is replaced or removed. Its files are
    memory-mapped: who writes into one of them in place (`cp` or `rsync --inplace` over it) changes it under
    whoever has it open. Copy a folder to another name, and rename it.

    It may be asked by several threads at once.

    Attributes:
        card: what index.json says of it.
        generation: which one it is: the first 12 hexadecimal digits of the sha256 of index.json.
    """

    def __init__(
        self, folder: IndexFolder, encoder: Encoder | None, card: IndexCard, live: Live, generation: str
    ) -> None:
        self.card = card
        self.generation = generation
        self._folder, self._encoder, self._live = folder, encoder, live

    @classmethod
    def open(
        cls, path: Path | str = "data/index", device: "Device" = "auto", encoder: Encoder | None = None
    ) -> Self:
        """Opens an index folder: of stage `index`, or a copy of one anywhere.

        Args:
            path: of the folder.
            device: what the encoder runs on.
            encoder: one that is open already; it is taken where it is the folder's own, and the folder's is
                opened where it is not.

        Raises:
            UserError: a file is missing or damaged, or the files are not of one generation; the message names
                the file, the values and the command that mends it.
            MachineError: `cuda` where there is none.
        """
        folder = IndexFolder(Path(path))
        recover_if_free(folder.path)
        return of_one_generation(folder.path, lambda: cls._open(folder, device, encoder))

    @classmethod
    def _open(cls, folder: IndexFolder, device: "Device", encoder: Encoder | None) -> Self:
        card = folder.read_card()
        generation = sha256_of(folder.card)[:12]
        live = Live.open(folder, card)
        if card.encoder_sha256 is None:
            return cls(folder, None, card, live, generation)
        existing(folder.encoder, made_by="index")
        if encoder is None or encoder.sha256 != card.encoder_sha256:
            encoder = Encoder.open(folder.encoder, device)
            folder.check(folder.encoder, encoder.sha256, card.encoder_sha256)
        if encoder.dim != card.dimension:
            raise folder.of_another(folder.encoder, f"of {encoder.dim} dimensions", str(card.dimension))
        return cls(folder, encoder, card, live, generation)

    def __len__(self) -> int:
        return len(self._live)

    @property
    def has_encoder(self) -> bool:
        """Whether it can be searched with pictures, and not with ids and embeddings alone."""
        return self._encoder is not None

    @property
    def encoder(self) -> Encoder:
        """That made its embeddings.

        Raises:
            UserError: it has none.
        """
        if self._encoder is None:
            raise no_encoder(self._folder.path)
        return self._encoder

    @property
    def classes(self) -> dict[str, int]:
        """How many images there are of each class, sorted by the names."""
        return self._live.counts("class_name")

    @property
    def splits(self) -> dict[str, int]:
        """How many images there are of each split, sorted by the names."""
        return self._live.counts("split")

    def search(
        self,
        query: "Query | Sequence[Query]",
        k: int = 10,
        *,
        split: str | None = None,
        class_name: str | None = None,
        min_score: float | None = None,
    ) -> "pd.DataFrame":
        """The k images that look most alike, as a table: rank, score, class_name, id, source, split.

        Args:
            query: an image file; RGB pixels, uint8 [H, W, 3] of the encoder's size; the id of an image of the
                collection, which is left out of its own answer; or an embedding, float [D]. A list of such,
                pixels [B, H, W, 3] or embeddings [B, D] ask for many at once: the table then begins with the
                column `query`, which counts them from 0.
            k: from 1 to the size of the index. Fewer come back where the index finds no more.
            split: only images of this split.
            class_name: only images of this class.
            min_score: only images of this cosine similarity or a larger one.

        Raises:
            UserError: a file cannot be read, there is no such id, split or class, or k is out of range.

        Example:
            >>> index = ImageIndex.open("data/index")  # doctest: +SKIP
            >>> index.search("photo.jpg", k=5, split="train")  # doctest: +SKIP
        """
        import pandas as pd  # 0.6 s that the command line does without

        answers = self.answers(query, k, split=split, class_name=class_name, min_score=min_score)
        columns = list(Neighbor.__dataclass_fields__)
        if is_one(query):
            return pd.DataFrame([asdict(neighbor) for neighbor in answers[0]], columns=columns)
        rows = [{"query": number} | asdict(each) for number, answer in enumerate(answers) for each in answer]
        return pd.DataFrame(rows, columns=["query", *columns])

    def answers(
        self,
        query: "Query | Sequence[Query]",
        k: int = 10,
        *,
        split: str | None = None,
        class_name: str | None = None,
        min_score: float | None = None,
    ) -> list[list[Neighbor]]:
        """Like `search`, a list for each query, from the nearest on; the score is the cosine similarity."""
        self._check_k(k)
        embeddings, own_ids = to_embeddings(query, self.card.dimension, lambda: self.encoder, self.embedding)
        return self.answers_of(embeddings, own_ids, k, split, class_name, min_score)

    def answers_of(
        self,
        embeddings: NDArray[np.float32],
        own_ids: NDArray[np.int64] | None,
        k: int,
        split: str | None = None,
        class_name: str | None = None,
        min_score: float | None = None,
    ) -> list[list[Neighbor]]:
        """Like `answers`, of embeddings that are ready.

        Args:
            embeddings: [Q, D], L2-normalised.
            own_ids: of the image that each is, which it does not find, [Q]; -1, or None for all, where it is
                none of the collection's.
            k: see `search`, and likewise the others.
            split: only images of this split.
            class_name: only images of this class.
            min_score: only images of this cosine similarity or a larger one.

        Raises:
            UserError: there is no such split or class, or k is out of range.
        """
        self._check_k(k)
        if own_ids is None:
            own_ids = np.full(len(embeddings), NOT_IN_THE_INDEX, dtype=np.int64)
        among = self._live.among(split, class_name)
        found = self._live.search(np.ascontiguousarray(embeddings), int(k), among, own_ids)
        if min_score is not None:
            found = [_at_least(min_score, *each) for each in found]
        places = [places for _, places in found]
        # of all at once: groups are read whole
        rows = iter(self._live.rows(np.concatenate(places)) if places else [])
        return [_named(similarities, islice(rows, len(similarities))) for similarities, _ in found]

    def embedding(self, id_: int) -> NDArray[np.float32]:
        """The embedding of an image of the collection, float32 [D], of length 1.

        Raises:
            UserError: there is no image of this id, or an index of this kind gives no embeddings back.
        """
        return unit(self._live.embedding(id_), self.card.dimension)

    def thumbnail(self, id_: int) -> bytes | None:
        """A small picture of an image of the collection, as JPEG; None where the folder has none.

        Raises:
            UserError: there is no image of this id.
        """
        return self._live.thumbnail(id_)

    def rows(
        self, offset: int, limit: int, *, split: str | None = None, class_name: str | None = None
    ) -> list[dict[str, Any]]:
        """Images of the collection in the order of their ids: id, split, class_name, source.

        Args:
            offset: so many are passed over.
            limit: at most so many.
            split: only images of this split.
            class_name: only images of this class.

        Raises:
            UserError: there is no such split or class, or a number is below 0.
        """
        if offset < 0 or limit < 0:
            raise UserError(f"offset is {offset} and limit {limit}: neither can be below 0")
        among = self._live.among(split, class_name)
        if among is None:
            return self._live.rows(np.arange(offset, min(offset + limit, len(self))))
        return self._live.rows(np.flatnonzero(among)[offset : offset + limit])

    def row(self, id_: int) -> dict[str, Any]:
        """What is known of an image: id, split, class_name, source.

        Raises:
            UserError: there is no image of this id.
        """
        (row,) = self._live.rows(np.array([self._live.place(id_)]))
        return row

    def count(self, *, split: str | None = None, class_name: str | None = None) -> int:
        """How many images there are of a split and a class (None: of any).

        Raises:
            UserError: there is no such split or class.
        """
        among = self._live.among(split, class_name)
        return len(self) if among is None else int(among.sum())

    def pictures(self) -> Callable[[int], NDArray[np.uint8]]:
        """Gives the pixels of an image by its id, uint8 [H, W, 3], from `images/` beside the index folder.

        An image that was added is not there: its thumbnail is enlarged.

        Raises:
            UserError: there is no such folder, or it holds another generation of the collection.
        """
        return pictures_of(self._folder.path, self.card, self._live)

    def _check_k(self, k: int) -> None:
        if not len(self):
            raise UserError("the index holds no images: 'lookalike index add' adds some")
        if not isinstance(k, int | np.integer) or not 1 <= k <= len(self):
            raise UserError(f"k is {k!r}, the index holds {len(self)} images: choose k from 1 to {len(self)}")


def _at_least(score: float, similarities: NDArray[np.float32], places: NDArray[np.int64]) -> Found:
    return similarities[similarities >= score], places[similarities >= score]


def _named(similarities: NDArray[np.float32], rows: Iterable[dict[str, Any]]) -> list[Neighbor]:
    return [
        Neighbor(rank=rank, score=float(score), **row)
        for rank, (score, row) in enumerate(zip(similarities, rows, strict=True), start=1)
    ]
