"""Images to embeddings, streaming: any number of images in the memory of one batch."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.arrays import create_array
from pipeline.encoder.runtime import Encoder


def embed_to_file(
    encoder: Encoder,
    images: NDArray[np.uint8],
    rows: NDArray[np.int64],
    batch_size: int,
    path: Path,
    description: str,
) -> None:
    """Writes the embeddings of images to a .npy file as they are made.

    Args:
        encoder: gives float32 [B, D].
        images: uint8 [N, H, W, 3]; may be a memory map.
        rows: of the images that are embedded, [R].
        batch_size: images at a time.
        path: of the file, float32 [R, D].
        description: stands before the progress bar.
    """
    embeddings = create_array(path, np.float32, (len(rows), encoder.dim))
    with tqdm(total=len(rows), desc=description, unit=" images", disable=None) as bar:
        for start in range(0, len(rows), batch_size):
            batch = images[rows[start : start + batch_size]]
            embeddings[start : start + len(batch)] = encoder(batch)
            bar.update(len(batch))
