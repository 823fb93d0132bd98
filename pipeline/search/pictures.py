"""The pixels of an index's images, where the collection that it was built from lies beside it."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.artifacts import Artifacts, sha256_of
from pipeline.errors import UserError, existing
from pipeline.images import fit
from pipeline.search.files.card import IndexCard
from pipeline.search.live import Live


def pictures_of(path: Path, card: IndexCard, live: Live) -> Callable[[int], NDArray[np.uint8]]:
    """See `ImageIndex.pictures`."""
    data = Artifacts(Path(os.path.abspath(path)).parent)  # noqa: PTH100 (beside the link, if it is one)
    if not data.images.exists():
        raise UserError(
            f"{data.images}: no such folder: the pictures of an index lie in images/ beside it, as stage "
            "'fetch' wrote them"
        )
    parts = [data.read_images(split) for split in data.splits()]  # opened before the manifest is hashed
    found = sha256_of(existing(data.manifest, made_by="fetch"))
    if card.manifest_sha256 is None:
        raise UserError(f"{path}: was built from embeddings alone: no pictures belong to it")
    if found != card.manifest_sha256:
        raise UserError(
            f"{data.manifest}: is {found[:12]}, but {path} was built from "
            f"{card.manifest_sha256[:12]}: its pictures are not those of the index: "
            "run 'dvc repro index'"
        )

    def picture(id_: int) -> NDArray[np.uint8]:
        live.place(id_)
        row = id_
        for part in parts:
            if row < len(part):
                return np.asarray(part[row])
            row -= len(part)
        jpeg = live.thumbnail(id_)
        if jpeg is None:
            raise UserError(f"image {id_}: was added, and neither images/ nor the index has its picture")
        return fit(np.asarray(Image.open(io.BytesIO(jpeg))), parts[0].shape[1])

    return picture
