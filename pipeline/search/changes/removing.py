"""Images leave an index folder: their ids are noted, and nothing else is written."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np

from pipeline.errors import UserError
from pipeline.search.changes.next_generation import next_generation
from pipeline.search.changes.segments import write_removed
from pipeline.search.finding import search_parameters


def remove(path: Path, ids: Iterable[int]) -> int:
    """Takes images out of an index folder: no search finds them any more, and their ids are not given again.

    Args:
        path: of the index folder.
        ids: of the images; where one is none, nothing is removed.

    Returns:
        How many there were.

    Raises:
        UserError: there is no image of an id, an index of this kind cannot leave images out, or the folder
            is no index folder, or damaged.
        MachineError: another process is writing the folder.
    """
    leaving = np.unique(np.fromiter(ids, dtype=np.int64))
    with next_generation(path) as generation:
        card, live = generation.card, generation.live
        for id_ in leaving.tolist():
            live.place(id_)
        _check_that_it_leaves_out(live.parts[0].index, path)
        removed = np.union1d(live.removed, leaving)
        if len(leaving):
            generation.write(
                replace(
                    card,
                    count=card.count - len(leaving),
                    removed_count=len(removed),
                    removed_sha256=write_removed(generation.new.removed, removed),
                )
            )
    return len(leaving)


def _check_that_it_leaves_out(index: faiss.Index, path: Path) -> None:
    """Asks the base once, since some kinds say so only then."""
    nothing = np.zeros(index.ntotal, dtype=np.bool_)
    try:
        params = search_parameters(index, {}, nothing)
        index.search(np.zeros((1, index.d), dtype=np.float32), 1, params=params)
    except RuntimeError:
        raise UserError(
            f"{path}: an index of this kind cannot leave images out: choose another index.factory"
        ) from None
