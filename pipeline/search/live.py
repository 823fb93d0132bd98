"""The images of an index folder that can be found: base and segments as one, without what was removed.

Places count through the rows of the base and of all segments, one after the other, as the ids ascend.
"""

# Q queries, D dimensions, N places

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DamagedError, UserError, damaged_output
from pipeline.search.files.card import IndexCard, PartCard
from pipeline.search.files.catalog import Catalog
from pipeline.search.files.thumbnails import Thumbnails
from pipeline.search.finding import ForeignIdError, find
from pipeline.search.index_folder import FOREIGN_IDS, IndexFolder
from pipeline.search.rows import KeepsNoEmbeddingsError, Stored

_SHOWN = 12  # names in a message
Found = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class Part:
    """The base or a segment, open.

    Attributes:
        card: its entry in index.json.
        index: of its images, by their rows.
        catalog: a row an image.
        thumbnails: likewise; None where the folder has none.
        stored: the embeddings, by their rows.
        parameters: of its search, as tuned.
        first: the place of its first row.
        path: of the index's file.
    """

    card: PartCard
    index: faiss.Index
    catalog: Catalog
    thumbnails: Thumbnails | None
    stored: Stored
    parameters: Mapping[str, int]
    first: int
    path: Path

    @property
    def damaged(self) -> DamagedError:
        """That its index holds what cannot be."""
        return damaged_output(self.path, FOREIGN_IDS, "index")

    @property
    def places(self) -> slice:
        """Its own among all."""
        return slice(self.first, self.first + self.card.count)


class Live:
    """All parts of an index folder, open; may be asked by several threads at once.

    Attributes:
        parts: base and segments, in the order of their ids.
        ids: of every place, ascending, int64 [N].
        removed: of those that cannot be found any more, ascending.
        is_live: which places can be found, [N]; None: all.
    """

    def __init__(self, parts: Sequence[Part], removed: NDArray[np.int64]) -> None:
        self.parts = parts
        self.removed = removed
        self.ids = np.concatenate([part.catalog.ids() for part in parts])
        self.is_live: NDArray[np.bool_] | None = None
        if len(removed):
            places = np.searchsorted(self.ids, removed)
            self.is_live = np.ones(len(self.ids), dtype=np.bool_)
            self.is_live[places[places < len(self.ids)]] = False
        self._num_live = len(self.ids) if self.is_live is None else int(self.is_live.sum())
        self._lock = threading.Lock()
        self._words: dict[str, tuple[dict[str, int], NDArray[np.int32], dict[str, int]]] = {}

    @classmethod
    def open(cls, folder: IndexFolder, card: IndexCard) -> "Live":
        """Opens every part, each held against what index.json says of it.

        Raises:
            UserError: a file is missing, damaged or of another generation.
        """
        parts: list[Part] = []
        first = 0
        for each in card.parts():
            index = folder.read_index(card, each)
            catalog, thumbnails = folder.read_catalog(each), folder.read_thumbnails(each)
            parameters = {} if parts else card.search_parameters  # segments are exact
            path = folder.files_of(each.name).index
            parts.append(Part(each, index, catalog, thumbnails, Stored(index), parameters, first, path))
            first += each.count
        live = cls(parts, folder.read_removed(card))
        if len(live) != card.count:
            raise folder.of_another(folder.path, f"{len(live)} images", f"{card.count} images")
        return live

    def __len__(self) -> int:
        return self._num_live

    def place(self, id_: int) -> int:
        """Where the image of an id is.

        Raises:
            UserError: there is none, or not any more.
        """
        place = int(np.searchsorted(self.ids, id_))
        if place < len(self.ids) and self.ids[place] == id_ and (self.is_live is None or self.is_live[place]):
            return place
        if len(self) == 0:
            raise UserError(f"there is no image {id_}: the index holds none")
        live = self.ids if self.is_live is None else self.ids[self.is_live]
        if live[0] < id_ < live[-1]:
            raise UserError(f"there is no image {id_}: it was removed")
        raise UserError(f"there is no image {id_}: the ids go from {live[0]} to {live[-1]}")

    def embedding(self, id_: int) -> NDArray[np.float32]:
        """The embedding of an image as the index holds it, [D]; of compressed codes its length is not 1.

        Raises:
            UserError: there is no such image, or an index of this kind gives none back.
        """
        part, row = self.row(self.place(id_))
        try:
            (embedding,) = part.stored[np.array([row])]
            return np.asarray(embedding)
        except KeepsNoEmbeddingsError:
            raise UserError(
                f"image {id_}: an index of this kind does not give its embeddings back: ask with the image's "
                "file"
            ) from None
        except RuntimeError:  # FAISS notes where each row lies, and finds one that is none
            raise part.damaged from None

    def thumbnail(self, id_: int) -> bytes | None:
        """The thumbnail of an image, as JPEG; None where the folder has none.

        Raises:
            UserError: there is no such image.
        """
        part, row = self.row(self.place(id_))
        return None if part.thumbnails is None else part.thumbnails.jpeg(row)

    def row(self, place: int) -> tuple[Part, int]:
        """The part that a place is in, and its row there."""
        for part in reversed(self.parts):
            if place >= part.first:
                return part, place - part.first
        raise AssertionError("the base begins at 0")

    def rows(self, places: NDArray[np.int64]) -> list[dict[str, Any]]:
        """What an answer names of these places, in their order: id, split, class_name, source."""
        rows: list[dict[str, Any]] = [{}] * len(places)
        for part in self.parts:
            here = np.flatnonzero((places >= part.first) & (places < part.places.stop))
            if len(here):
                for place, row in zip(
                    here.tolist(), part.catalog.rows(places[here] - part.first), strict=True
                ):
                    rows[place] = row
        return rows

    def among(self, split: str | None, class_name: str | None) -> NDArray[np.bool_] | None:
        """Which places are live, of this split and of this class (None: of any), [N]; None: all of them.

        Raises:
            UserError: no image is of that split, or of that class; the message names those that there are.
        """
        chosen = self.is_live
        for column, wanted in (("split", split), ("class_name", class_name)):
            if wanted is None:
                continue
            numbers_of, numbers, counts = self._column(column)
            if wanted not in counts:
                listed = ", ".join(list(counts)[:_SHOWN]) + (", ..." if len(counts) > _SHOWN else "")
                raise UserError(
                    f"{column} is {wanted!r}, of which the index has none: it has {listed or 'none'}"
                )
            is_of_it = numbers == numbers_of[wanted]
            chosen = is_of_it if chosen is None else chosen & is_of_it
        return chosen

    def counts(self, column: str) -> dict[str, int]:
        """How many live images have each word of a column, `split` or `class_name`, sorted by the words."""
        return dict(self._column(column)[2])

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        among: NDArray[np.bool_] | None,
        own_ids: NDArray[np.int64],
    ) -> list[Found]:
        """The k nearest of each query over all parts, of equals the smaller id first.

        Args:
            queries: [Q, D].
            k: of fewer all.
            among: which places may be found, [N], live ones; None: all.
            own_ids: the query's own, which it does not find, [Q]; -1 where it has none.

        Returns:
            For each query similarities and places, from the nearest on.

        Raises:
            UserError: an index of this kind cannot search within some of its images, or its file is damaged.
        """
        own = np.minimum(np.searchsorted(self.ids, own_ids), len(self.ids) - 1)
        own[self.ids[own] != own_ids] = -1
        found = []
        for part in self.parts:
            here = None if among is None or among[part.places].all() else among[part.places]  # quicker
            is_here = (own >= part.first) & (own < part.places.stop)
            own_rows = np.where(is_here, own - part.first, -1)
            try:
                answers = find(part.index, queries, k, part.parameters, here, own_rows)
            except ForeignIdError:
                raise part.damaged from None
            found.append([(similarities, rows + part.first) for similarities, rows in answers])
        return [_nearest(of_one, k) for of_one in zip(*found, strict=True)]

    def _column(self, name: str) -> tuple[dict[str, int], NDArray[np.int32], dict[str, int]]:
        """The number of each word, that of each place's (-1: none), and how many live places have each."""
        with self._lock:
            if name not in self._words:
                numbers_of: dict[str, int] = {}
                numbers = []
                for part in self.parts:
                    words, of_part = part.catalog.words(name)
                    places = [numbers_of.setdefault(word, len(numbers_of)) for word in words]
                    numbers.append(np.array([*places, -1], dtype=np.int32)[of_part])  # -1 is the last
                every = np.concatenate(numbers)
                live = every if self.is_live is None else every[self.is_live]
                counts = np.bincount(live[live >= 0], minlength=len(numbers_of)).tolist()
                found = {word: counts[number] for word, number in numbers_of.items() if counts[number]}
                self._words[name] = numbers_of, every, dict(sorted(found.items()))
            return self._words[name]


def _nearest(found: Sequence[Found], k: int) -> Found:
    similarities = np.concatenate([each for each, _ in found])
    places = np.concatenate([each for _, each in found])
    order = np.lexsort((places, -similarities))[:k]
    return similarities[order], places[order]
