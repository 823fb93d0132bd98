"""A searchable collection: one index folder, opened and asked."""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import faiss
import numpy as np
import pyarrow
from numpy.typing import NDArray

from pipeline.artifacts import Artifacts, sha256_of
from pipeline.atomic import is_between_names, recover_if_free, writer
from pipeline.encoder.runtime import Encoder
from pipeline.errors import UserError, damaged_output, existing
from pipeline.search.catalog import Catalog
from pipeline.search.finding import find
from pipeline.search.index_folder import IndexCard, IndexFolder
from pipeline.search.queries import Query, is_one, to_embeddings

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from pipeline.params.section import Device  # a type alone: a query reads no params.yaml

# DVC replaces the files of a folder that it checks out one by one
_SETTLED_AFTER_S = 2.0
_PATIENCE_S = 20.0

_Opened = TypeVar("_Opened")


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
    """

    def __init__(
        self, folder: IndexFolder, encoder: Encoder, index: faiss.Index, card: IndexCard, catalog: Catalog
    ) -> None:
        self.encoder = encoder
        self.card = card
        self._folder, self._index, self._catalog = folder, index, catalog

    @classmethod
    def open(
        cls, path: Path | str = "data/index", device: "Device" = "auto", encoder: Encoder | None = None
    ) -> Self:
        """Opens an index folder: of stage `index`, or a copy of one anywhere.

        Args:
            path: of the folder.
            device: what the encoder runs on.

        Raises:
            UserError: a file is missing or damaged, or the files are not of one generation; the message names
                the file, the values and the command that mends it.
            MachineError: `cuda` where there is none.
        """
        folder = IndexFolder(Path(path))
        recover_if_free(folder.path)
        return _of_one_generation(folder.path, lambda: cls._open(folder, device, encoder))

    @classmethod
    def _open(cls, folder: IndexFolder, device: "Device", encoder: Encoder | None) -> Self:
        card = folder.read_card()
        index = folder.read_index(card)
        existing(folder.encoder, made_by="index")
        if encoder is None or encoder.sha256 != card.encoder_sha256:
            encoder = Encoder.open(folder.encoder, device)
        folder.check(folder.encoder, encoder.sha256, card.encoder_sha256)
        if encoder.dim != card.dimension:
            raise folder.of_another(folder.encoder, f"of {encoder.dim} dimensions", str(card.dimension))
        existing(folder.catalog, made_by="index")
        folder.check(folder.catalog, sha256_of(folder.catalog), card.catalog_sha256)
        try:
            catalog = Catalog(folder.catalog)
        except pyarrow.ArrowInvalid:
            raise damaged_output(folder.catalog, "not a parquet file", "index") from None
        return cls(folder, encoder, index, card, catalog)

    @property
    def generation(self) -> str:
        return self.card.index_sha256[:12]

    @property
    def classes(self) -> dict[str, int]:
        return self._counts("class_name")

    @property
    def splits(self) -> dict[str, int]:
        return self._counts("split")

    def _counts(self, column: str) -> dict[str, int]:
        words = self._catalog._file.read(columns=[column]).column(column).to_pylist()
        return {word: words.count(word) for word in sorted({word for word in words if word is not None})}

    has_thumbnails = False

    def thumbnail(self, id_: int) -> bytes | None:
        self.embedding(id_)
        return None

    def embedding(self, id_: int) -> NDArray[np.float32]:
        embeddings, _ = to_embeddings(int(id_), self.encoder, self._index)
        return np.asarray(embeddings[0])

    def rows(
        self, offset: int, limit: int, *, split: str | None = None, class_name: str | None = None
    ) -> list[dict[str, Any]]:
        ids = np.flatnonzero(self._catalog.ids_of(split, class_name))[offset : offset + limit]
        return self._catalog.rows(ids) if len(ids) else []

    def answers_of(
        self,
        embeddings: NDArray[np.float32],
        own_ids: NDArray[np.int64],
        k: int,
        *,
        split: str | None = None,
        class_name: str | None = None,
        min_score: float | None = None,
    ) -> list[list[Neighbor]]:
        among = None
        if split is not None or class_name is not None:
            among = self._catalog.ids_of(split, class_name)
        found = find(self._index, embeddings, int(k), self.card.search_parameters, among, own_ids)
        ids = [ids for _, ids in found]
        rows = iter(self._catalog.rows(np.concatenate(ids)) if ids else [])
        answers = [self._named(similarities, islice(rows, len(similarities))) for similarities, _ in found]
        return [[n for n in answer if min_score is None or n.score >= min_score] for answer in answers]

    def __len__(self) -> int:
        return self.card.count

    def search(
        self,
        query: "Query | Sequence[Query]",
        k: int = 10,
        *,
        split: str | None = None,
        class_name: str | None = None,
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

        Raises:
            UserError: a file cannot be read, there is no such id, split or class, or k is out of range.

        Example:
            >>> index = ImageIndex.open("data/index")  # doctest: +SKIP
            >>> index.search("photo.jpg", k=5, split="train")  # doctest: +SKIP
        """
        import pandas as pd  # 0.6 s that the command line does without

        answers = self.answers(query, k, split=split, class_name=class_name)
        columns = list(Neighbor.__dataclass_fields__)
        if is_one(query):
            return pd.DataFrame([asdict(neighbor) for neighbor in answers[0]], columns=columns)
        return pd.DataFrame(
            [
                {"query": number} | asdict(neighbor)
                for number, answer in enumerate(answers)
                for neighbor in answer
            ],
            columns=["query", *columns],
        )

    def answers(
        self,
        query: "Query | Sequence[Query]",
        k: int = 10,
        *,
        split: str | None = None,
        class_name: str | None = None,
    ) -> list[list[Neighbor]]:
        """Like `search`, a list for each query, from the nearest on; the score is the cosine similarity."""
        if not isinstance(k, int | np.integer) or not 1 <= k <= len(self):
            raise UserError(f"k is {k!r}, the index holds {len(self)} images: choose k from 1 to {len(self)}")
        embeddings, own_ids = to_embeddings(query, self.encoder, self._index)
        among = None
        if split is not None or class_name is not None:
            among = self._catalog.ids_of(split, class_name)
        found = find(self._index, embeddings, int(k), self.card.search_parameters, among, own_ids)
        ids = [ids for _, ids in found]
        rows = iter(
            self._catalog.rows(np.concatenate(ids)) if ids else []
        )  # of all at once: groups are read whole
        return [self._named(similarities, islice(rows, len(similarities))) for similarities, _ in found]

    @staticmethod
    def _named(similarities: NDArray[np.float32], rows: Iterable[dict[str, Any]]) -> list[Neighbor]:
        return [
            Neighbor(
                rank=rank,
                score=float(score),
                class_name=row["class_name"],
                id=row["id"],
                source=row["source"],
                split=row["split"],
            )
            for rank, (score, row) in enumerate(zip(similarities, rows, strict=True), start=1)
        ]

    def pictures(self) -> Callable[[int], NDArray[np.uint8]]:
        """Gives the pixels of an image by its id, uint8 [H, W, 3], from `images/` beside the index folder.

        Raises:
            UserError: there is no such folder, or it holds another generation of the collection.
        """
        data = Artifacts(Path(os.path.abspath(self._folder.path)).parent)  # noqa: PTH100 (beside the link, if it is one)
        if not data.images.exists():
            raise UserError(
                f"{data.images}: no such folder: the pictures of an index lie in images/ beside it, as stage "
                "'fetch' wrote them"
            )
        parts = [data.read_images(split) for split in data.splits()]  # opened before the manifest is hashed
        found = sha256_of(existing(data.manifest, made_by="fetch"))
        if found != self.card.manifest_sha256:
            raise UserError(
                f"{data.manifest}: is {found[:12]}, but {self._folder.path} was built from "
                f"{self.card.manifest_sha256[:12]}: its pictures are not those of the index: "
                "run 'dvc repro index'"
            )

        def picture(id_: int) -> NDArray[np.uint8]:
            row = id_
            for part in parts:
                if 0 <= row < len(part):
                    return np.asarray(part[row])
                row -= len(part)
            raise UserError(f"there is no image {id_}: the ids go from 0 to {len(self) - 1}")

        return picture


def _of_one_generation(path: Path, open_: Callable[[], _Opened]) -> _Opened:
    """Opens again what was replaced while it was opened, so that no answer mixes two generations.

    A stage exchanges the whole folder at once. DVC, where it checks one out, replaces one file after the
    other: what does not belong together is looked at again until nothing has moved for two seconds.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        before = identity(path)
        try:
            opened = open_()
        except (UserError, FileNotFoundError):
            moved = identity(path) != before
            if not (moved or _is_settling(path)) or time.monotonic() > deadline:
                if not path.exists() and (process := writer(path)) is not None:
                    raise UserError(
                        f"{path}: process {process} is making it: ask again when it is there"
                    ) from None
                raise
            time.sleep(0.05)
            continue
        if identity(path) == before:
            return opened


def identity(path: Path) -> list[tuple[int, int, int]] | None:
    """What another folder has not, nor this one once a file of it was replaced."""
    try:
        found = [entry.stat() for entry in (path, *sorted(path.iterdir()))]
    except (FileNotFoundError, NotADirectoryError):
        return None
    # the time of change, which nobody can set: twice replaced, a folder may have its number again
    return [(status.st_dev, status.st_ino, status.st_ctime_ns) for status in found]


def _is_settling(path: Path) -> bool:
    """Whether the folder or a file in it has just been given its name or its bytes, or is about to be."""
    try:
        changed = max(entry.stat().st_ctime for entry in (path, *path.iterdir()))
    except FileNotFoundError:
        return is_between_names(path)
    except NotADirectoryError:
        return False
    return time.time() - changed < _SETTLED_AFTER_S
