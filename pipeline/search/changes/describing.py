"""What an index folder is, in figures."""

from pathlib import Path
from typing import Any

from pipeline.artifacts import sha256_of
from pipeline.atomic import recover_if_free
from pipeline.encoder.runtime import Encoder
from pipeline.search.files.settling import of_one_generation
from pipeline.search.index_folder import IndexFolder

# So much of the images to be scanned one by one, or passed over, and a search is slower than it need be.
_WORTH_COMPACTING = 0.1


def describe(path: Path) -> dict[str, Any]:
    """Figures of an index folder, for people and programs.

    Returns:
        generation, images, base (images of it), segments (a name and images each), removed, next_id, factory,
        search_parameters, recall_at_10, target_recall, dimension, encoder (name, version, sha256;
        None where there is none),
        thumbnails (size in pixels, and bytes; None where there are none), bytes (of the folder), and
        compact_pays: whether more than a tenth of it is added or removed.

    Raises:
        UserError: it is no index folder, or one of its files is missing or no encoder.
    """
    recover_if_free(path)
    return of_one_generation(path, lambda: _describe(IndexFolder(path)))


def _describe(folder: IndexFolder) -> dict[str, Any]:
    card = folder.read_card()
    encoder = None if card.encoder_sha256 is None else Encoder.open(folder.encoder, "cpu")
    sizes = {file: file.stat().st_size for file in [folder.card, *folder.named_by(card)]}
    thumbnails = [folder.files_of(part.name).thumbnails for part in card.parts()]
    added = sum(segment.count for segment in card.segments)
    return {
        "generation": sha256_of(folder.card)[:12],
        "images": card.count,
        "base": card.base_count,
        "segments": [{"name": segment.name, "images": segment.count} for segment in card.segments],
        "removed": card.removed_count,
        "next_id": card.next_id,
        "factory": card.factory,
        "search_parameters": card.search_parameters,
        "recall_at_10": card.recall_at_10,
        "target_recall": card.target_recall,
        "dimension": card.dimension,
        "encoder": {
            "name": encoder.metadata.get("name"),
            "version": encoder.metadata.get("version"),
            "sha256": card.encoder_sha256,
        }
        if encoder is not None
        else None,
        "thumbnails": {
            "size": card.thumbnail_size,
            "bytes": sum(sizes.get(file, 0) for file in thumbnails),
        }
        if card.thumbnail_size
        else None,
        "bytes": sum(sizes.values()),
        "compact_pays": added + card.removed_count > _WORTH_COMPACTING * card.count,
    }
