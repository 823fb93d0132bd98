"""An index folder becomes one base again: no segments, and nothing in its files that was removed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import faiss

from pipeline.errors import UserError
from pipeline.search.building.certificate import RECALL_AT, Recall
from pipeline.search.building.filling import add_held_out, fill
from pipeline.search.building.index import HELD_OUT_AT_MOST
from pipeline.search.building.kinds import is_exact
from pipeline.search.building.truth import exact_neighbors
from pipeline.search.building.tuning import Asked, Point, certify, set_search_parameters, tune
from pipeline.search.changes.next_generation import next_generation
from pipeline.search.changes.segments import left_of, write_part
from pipeline.search.files.card import BASE, IndexCard
from pipeline.search.files.faiss_file import ids_are_rows, read_faiss
from pipeline.search.index_folder import IndexFolder
from pipeline.search.rows import KeepsNoEmbeddingsError, Rows, read_rows, sample_rows

_NUM_QUERIES = 2000  # as params.yaml has it
_SEED = 0


@dataclass(frozen=True)
class Compacted:
    """What there was to do.

    Attributes:
        num_segments: that went into the base.
        num_removed: images that went out of the files.
        card: of the folder as it is now.
    """

    num_segments: int
    num_removed: int
    card: IndexCard


def compact(path: Path) -> Compacted:
    """Writes base, segments and what was removed as one base, of the same kind; every id stays.

    The kind of index keeps what it learned (lists, codebooks), is emptied, and gets the embeddings of all
    images that are left, a chunk at a time. It is tuned to its target and its recall measured anew, with
    queries that are not in it until that is done. Of compressed kinds what goes in is what their codes stand
    for, so that is also what the recall is of; it is never said to be better than it was.

    Args:
        path: of the index folder; where there is nothing to do it stays as it is.

    Raises:
        UserError: an index of this kind does not give its embeddings back, or the folder is no index folder,
            or damaged.
        MachineError: another process is writing the folder.
    """
    with next_generation(path) as generation:
        card, live = generation.card, generation.live
        done = Compacted(len(card.segments), card.removed_count, card)
        if done.num_segments or done.num_removed:
            for part in live.parts:
                if not ids_are_rows(part.index):
                    raise part.damaged
            images = [left_of(live, part) for part in live.parts]
            try:
                index, point = _refilled(generation.old, card, [each.vectors for each in images])
            except KeepsNoEmbeddingsError:
                raise UserError(
                    f"{path}: an index of this kind does not give its embeddings back: build it anew from "
                    "the images"
                ) from None
            base = write_part(generation.new, BASE, index, images, with_thumbnails=card.thumbnail_size > 0)
            card = replace(
                card,
                index_sha256=base.index_sha256,
                index_seal=base.index_seal,
                catalog_sha256=base.catalog_sha256,
                thumbnails_sha256=base.thumbnails_sha256,
                search_parameters=point.parameters,
                recall_at_10=point.recall.mean,
                recall_at_10_low=point.recall.low,
                recall_at_10_high=point.recall.high,
                work_per_query=point.work,
                base_count=base.count,
                segments=(),
                removed_count=0,
                removed_sha256=None,
            )
            generation.write(card)
    return replace(done, card=card)


def _refilled(folder: IndexFolder, card: IndexCard, embeddings: Sequence[Rows]) -> tuple[faiss.Index, Point]:
    """The base with other embeddings in it, and what it reaches with which parameters."""
    index = read_faiss(folder.index, into_memory=True)
    index.reset()
    count = sum(len(part) for part in embeddings)
    asked = sample_rows(count, min(_NUM_QUERIES, count // HELD_OUT_AT_MOST), _SEED)
    before = Recall(card.recall_at_10, card.recall_at_10_low, card.recall_at_10_high)
    if is_exact(card.factory) or len(asked) < 2:  # nothing to miss, or too few to tell
        work = card.work_per_query * count / max(card.base_count, 1)
        return fill(index, embeddings, asked[:0]), Point(card.search_parameters, before, work)
    queries = read_rows(embeddings, asked)
    index = fill(index, embeddings, asked)
    truth = exact_neighbors(embeddings, queries, min(RECALL_AT, count - len(asked)), asked)
    tuned, measured = Asked(queries, truth, vectors=embeddings).halves()
    point = certify(index, measured, card.target_recall, tune(index, tuned, card.target_recall)).point
    set_search_parameters(index, point.parameters)
    add_held_out(index, queries, asked)
    if not _keeps_all(index):
        point = replace(
            point,
            recall=Recall(
                min(point.recall.mean, before.mean),
                min(point.recall.low, before.low),
                min(point.recall.high, before.high),
            ),
        )
    return index, point


def _keeps_all(index: faiss.Index) -> bool:
    """Whether it holds embeddings as they are, and not codes of them."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexIDMap):
        return _keeps_all(index.index)
    if isinstance(index, faiss.IndexRefine):
        return _keeps_all(index.refine_index)
    return isinstance(index, faiss.IndexFlat | faiss.IndexIVFFlat | faiss.IndexHNSWFlat)
