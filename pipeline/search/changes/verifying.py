"""Whether an index folder is whole: its files those that index.json names, its search as good as said."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.artifacts import sha256_of
from pipeline.atomic import recover_if_free
from pipeline.encoder.runtime import Encoder
from pipeline.errors import UserError
from pipeline.search.building.certificate import RECALL_AT, recall_of
from pipeline.search.building.truth import exact_neighbors
from pipeline.search.building.tuning import Asked
from pipeline.search.changes.segments import left_of
from pipeline.search.files.card import IndexCard
from pipeline.search.files.faiss_file import ids_are_rows
from pipeline.search.index_folder import IndexFolder
from pipeline.search.live import Live
from pipeline.search.rows import KeepsNoEmbeddingsError, read_rows, sample_rows

_NUM_QUERIES = 200
_SEED = 0
# Queries beside an image are not new images, and 200 are a sample: of nine indexes that were tried this
# recall was 0.13 above to 0.013 below that of new images, and no healthy one falls by so much.
_LOST = 0.05


@dataclass(frozen=True)
class Verified:
    """What was found.

    Attributes:
        faults: a line each, with the file and what is wrong with it.
        recall: share of the exact ten nearest that the search found; None where it could not be measured.
        card: what index.json says.
    """

    faults: list[str]
    recall: float | None
    card: IndexCard


def verify(path: Path) -> Verified:
    """Reads every file of an index folder, and asks it what an exact search knows.

    The recall is over images, each moved in a random direction as far as its nearest other is: an image
    itself would be found too easily (pipeline/search/building/index.py), and new ones are not at hand.

    Raises:
        UserError: it is no index folder, or its index.json is damaged.
    """
    folder = IndexFolder(path)
    recover_if_free(path)
    while True:
        card, before = folder.read_card(), sha256_of(folder.card)
        verified = _verify(folder, card)
        if not verified.faults or sha256_of(folder.card) == before:
            return verified  # else it was replaced meanwhile


def _verify(folder: IndexFolder, card: IndexCard) -> Verified:
    faults = [fault for path, sha256 in folder.named_by(card).items() if (fault := _wrong(path, sha256))]
    if faults:
        return Verified(faults, None, card)
    try:
        live = Live.open(folder, card)
        encoder = None if card.encoder_sha256 is None else Encoder.open(folder.encoder, "cpu")
    except UserError as error:
        return Verified([str(error)], None, card)
    if encoder is not None and encoder.dim != card.dimension:
        faults.append(f"{folder.encoder}: of {encoder.dim} dimensions, the index is of {card.dimension}")
    faults += [str(part.damaged) for part in live.parts if not ids_are_rows(part.index)]
    if not (np.diff(live.ids) > 0).all():
        faults.append(f"{folder.path}: the ids of its catalogs do not ascend")
    if len(live.ids) and live.ids.max() >= card.next_id:
        faults.append(
            f"{folder.card}: next_id is {card.next_id}, and image {live.ids.max()} is there already"
        )
    recall = None if faults else _recall(live)
    if recall is not None and recall < card.recall_at_10 - _LOST:
        faults.append(
            f"{folder.index}: recall@10 is {recall:.4f}, {folder.card} says {card.recall_at_10:.4f}"
        )
    return Verified(faults, recall, card)


def _wrong(path: Path, sha256: str) -> str | None:
    if not path.exists():
        return f"{path}: missing"
    found = sha256_of(path)
    return None if found == sha256 else f"{path}: is {found[:12]}, index.json names {sha256[:12]}"


def _recall(live: Live) -> float | None:
    """Of the base and the segments together; None where there is nothing to find, or nothing to ask with."""
    if len(live) < 2:
        return None
    parts = [left_of(live, part).vectors for part in live.parts]
    places = np.arange(len(live.ids)) if live.is_live is None else np.flatnonzero(live.is_live)
    asked = sample_rows(len(live), min(_NUM_QUERIES, len(live)), _SEED)
    try:
        images = read_rows(parts, asked)
    except KeepsNoEmbeddingsError:
        return None
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    nearest = live.search(images, 1, live.is_live, live.ids[places[asked]])
    similarity = np.array([each[0] if len(each) else 1.0 for each, _ in nearest])[:, None]
    noise = np.random.default_rng(_SEED).standard_normal(images.shape)
    noise -= (noise * images).sum(axis=1, keepdims=True) * images
    lengths = np.linalg.norm(noise, axis=1, keepdims=True)
    noise /= np.where(lengths > 0, lengths, 1)  # in one dimension there is no direction
    queries = images + np.sqrt(np.maximum(2 - 2 * similarity, 0)) * noise
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    k = min(RECALL_AT, len(live))
    truth = exact_neighbors(parts, queries, k, np.empty(0, dtype=np.int64))
    found = np.full(truth.shape, -1)
    for row, (_, of_one) in enumerate(live.search(queries, k, live.is_live, np.full(len(queries), -1))):
        found[row, : len(of_one)] = np.searchsorted(places, of_one)
    return recall_of(found, truth, Asked(queries, truth, vectors=parts).as_near(found)).mean
