"""Section 3: a map of the images, near ones near, and the nearest of each."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import UNLABELLED
from pipeline.report.album import Album
from pipeline.report.nearest import nearest
from pipeline.report.run import Run
from pipeline.report.sprites import Sprites
from pipeline.report.tsne import clusters, layout

COLORS = 20  # that an eye tells apart
_CLUSTERS = 10
_NEIGHBORS = 10
_STEPS = 65_535  # of a coordinate, two bytes
_COSINE_STEPS = 10_000


@dataclass(frozen=True)
class Map:
    """A layout of images, and what the page says of it.

    Attributes:
        ids: of its images, [N], sorted.
        points: float32 [N, 2] from 0 to 1.
        groups: the colour of each, [N]; -1 for an image without a class.
        names: of the groups.
        colored_by: what the colours are.
        cosines: with the nearest on the map, [N, k].
        neighbors: their places in `ids`, [N, k].
    """

    ids: NDArray[np.int64]
    points: NDArray[np.float32]
    groups: NDArray[np.int64]
    names: Sequence[str]
    colored_by: str
    cosines: NDArray[np.float32]
    neighbors: NDArray[np.int64]


def make_map(run: Run, album: Album, num_images: int, seed: int) -> Map:
    """Lays out a seeded sample of the collection."""
    ids = np.sort(np.random.default_rng(seed).permutation(run.size)[:num_images])
    embeddings = run.embedding(ids)
    labels = album.labels[ids]
    labelled = int((labels != UNLABELLED).sum())
    if labelled and len(run.class_names) <= COLORS:
        groups, names, colored_by = labels, list(run.class_names), "class"
    else:
        groups = clusters(embeddings, _CLUSTERS, seed)
        names = [f"cluster {number + 1}" for number in range(int(groups.max()) + 1)]
        colored_by = "cluster"
    cosines, neighbors = nearest(embeddings, [embeddings], _NEIGHBORS, itself=np.arange(len(ids)))
    return Map(ids, layout(embeddings, seed), groups, names, colored_by, cosines, neighbors)


def map_json(found: Map, run: Run, album: Album, sprites: Sprites) -> dict[str, Any]:
    """What the page's script is given; arrays as base64 of little-endian numbers."""
    cells = [sprites.cells[int(id_)] for id_ in found.ids]
    splits = list(run.num_images)
    is_split = {split: number for number, split in enumerate(splits)}
    return {
        "count": len(found.ids),
        "k": found.neighbors.shape[1],
        "x": _packed(np.rint(found.points[:, 0] * _STEPS), "<u2"),
        "y": _packed(np.rint(found.points[:, 1] * _STEPS), "<u2"),
        "group": _packed(found.groups, "<i2"),
        "label": _packed(album.labels[found.ids], "<i4"),
        "id": _packed(found.ids, "<u4"),
        "split": _packed([is_split[album.split(int(id_))] for id_ in found.ids], "<u1"),
        "sheet": _packed([cell.sheet for cell in cells], "<u1"),
        "place": _packed([cell.place for cell in cells], "<u2"),
        "neighbors": _packed(found.neighbors, "<u2"),
        "cosines": _packed(np.rint(found.cosines * _COSINE_STEPS), "<i2"),
        "groups": list(found.names),
        "coloredBy": found.colored_by,
        "classes": list(run.class_names),
        "splits": splits,
        "sources": [album.source(int(id_)) for id_ in found.ids],
        "sheets": [
            {"side": sheet.side, "columns": sheet.columns, "rows": sheet.rows} for sheet in sprites.sheets
        ],
    }


def _packed(values: Any, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(dtype).tobytes()).decode()
