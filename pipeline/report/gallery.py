"""A search as a picture: each query beside its neighbours."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.pictures import Tile, draw_rows
from pipeline.search.image_index import Neighbor


def draw_gallery(
    picture: Callable[[int], NDArray[np.uint8]],
    queries: Sequence[NDArray[np.uint8]],
    answers: Sequence[Sequence[Neighbor]],
) -> Image.Image:
    """Each query at the left of a row, its neighbours to the right of it, from the nearest on.

    Args:
        picture: gives the pixels of an id, see `ImageIndex.pictures`.
        queries: uint8 [H, W, 3] each.
        answers: to each query its neighbours, shown with class (or id, where there is none) and cosine.
    """
    return draw_rows(
        [
            (Tile(pixels, "query"), [_tile(picture, neighbor) for neighbor in answer])
            for pixels, answer in zip(queries, answers, strict=True)
        ]
    )


def _tile(picture: Callable[[int], NDArray[np.uint8]], neighbor: Neighbor) -> Tile:
    return Tile(picture(neighbor.id), f"{neighbor.class_name or neighbor.id}  {neighbor.score:.3f}")
