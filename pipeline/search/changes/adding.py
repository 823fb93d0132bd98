"""Images join an index folder, in a segment behind what is there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.encoder.from_files.embed_each import (
    Embedded,
    Skipped,
    count_images,
    embed_each,
    none_can_be_read,
)
from pipeline.encoder.runtime import Encoder
from pipeline.search.changes.arrivals import Arrivals
from pipeline.search.changes.next_generation import NextGeneration, next_generation
from pipeline.search.changes.segments import (
    Images,
    exact_index,
    left_of,
    num_absorbed,
    write_part,
    write_removed,
)
from pipeline.search.files.card import number_of, segment_name
from pipeline.search.index_folder import IndexFolder, no_encoder
from pipeline.search.live import Live

if TYPE_CHECKING:
    from pipeline.params.section import Device  # a type alone: this reads no params.yaml


_NO_IMAGE = 64 * "0"


@dataclass(frozen=True)
class Added:
    """What became of the images.

    Attributes:
        ids: that were given.
        num_known: images that were there already, or came twice.
        skipped: what could not be read.
    """

    ids: range
    num_known: int
    skipped: list[Skipped]


def add(
    path: Path,
    paths: Sequence[Path],
    class_name: str | None = None,
    device: "Device" = "auto",
    batch_size: int = 64,
) -> Added:
    """Adds images to an index folder, embedded by its own encoder, under ids that were never given before.

    An image is known by the sha256 of its file. Where none is new the folder stays as it is. Small segments
    are taken along into the new one (`num_absorbed`); nothing else is written anew.

    Args:
        path: of the index folder.
        paths: image files, folders, and .tar, .tar.gz, .tgz and .zip of them.
        class_name: of all of them; None: they have none.
        device: what the encoder runs on.
        batch_size: images that the encoder is given at a time.

    Raises:
        UserError: there is no such path, no image can be read, or the index folder is none, is damaged or has
            no encoder.
        MachineError: another process is writing the folder.
    """
    if IndexFolder(path).read_card().encoder_sha256 is None:
        raise no_encoder(path)
    total = count_images(paths)
    with next_generation(path) as generation:
        card = generation.card
        if card.encoder_sha256 is None:  # it was replaced meanwhile
            raise no_encoder(path)
        encoder = Encoder.open(generation.old.encoder, device)
        generation.old.check(generation.old.encoder, encoder.sha256, card.encoder_sha256)
        known = _digests(generation.live)
        num_known, skipped = 0, []
        with Arrivals(generation.new.path, class_name, card.next_id, card.thumbnail_size) as arrivals:
            for outcome in embed_each(encoder, paths, total, batch_size, "add", known):
                if isinstance(outcome, Embedded):
                    arrivals.add(outcome)
                elif isinstance(outcome, Skipped):
                    skipped.append(outcome)
                else:
                    num_known += 1
        if len(arrivals):
            _write(generation, arrivals)
        if len(skipped) == total:
            raise none_can_be_read(total, skipped)
    return Added(range(card.next_id, card.next_id + len(arrivals)), num_known, skipped)


def _write(generation: NextGeneration, arrivals: Arrivals) -> None:
    card, live = generation.card, generation.live
    left = [left_of(live, part) for part in live.parts[1:]]
    absorbed = num_absorbed([len(each.rows) for each in left], len(arrivals))
    kept = card.segments[: len(left) - absorbed]
    images: list[Images] = [*left[len(kept) :], arrivals]
    segment = write_part(
        generation.new,
        segment_name(number_of(kept[-1].name) + 1 if kept else 1),
        exact_index(images, card.dimension),
        images,
        with_thumbnails=card.thumbnail_size > 0,
    )
    arrivals.remove()
    # removed images of segments that were taken along stand nowhere any more
    rest = live.parts[len(kept)].places.stop
    removed = live.removed[live.removed <= live.ids[rest - 1]] if rest else live.removed[:0]
    generation.write(
        replace(
            card,
            count=card.count + len(arrivals),
            next_id=card.next_id + len(arrivals),
            segments=(*kept, segment),
            removed_count=len(removed),
            removed_sha256=write_removed(generation.new.removed, removed),
        )
    )


def _digests(live: Live) -> NDArray[np.bytes_]:
    """The sha256 of the images that are there, S32 [N], sorted; where it is not known, that of none."""
    digests = [np.empty(0, dtype="S32")]
    for part in live.parts:
        for table in part.catalog.tables(("sha256",)):
            text = "".join(sha256 or _NO_IMAGE for sha256 in table.column(0).to_pylist())
            digests.append(np.frombuffer(bytes.fromhex(text), dtype="S32"))
    every = np.concatenate(digests)
    return np.sort(every if live.is_live is None else every[live.is_live])
