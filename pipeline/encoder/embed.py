"""Images to embeddings, streaming: any number of images in the memory of one batch."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.artifacts import create_array
from pipeline.encoder.runtime import Encoder


def embed_to_file(
    encoder: Encoder, images: NDArray[np.uint8], batch_size: int, path: Path, description: str
) -> None:
    """Writes the embedding of every image to a .npy file as it is made.

    Args:
        encoder: gives float32 [B, D].
        images: uint8 [N, H, W, 3]; may be a memory map.
        batch_size: images at a time.
        path: of the file, float32 [N, D].
        description: stands before the progress bar.
    """
    embeddings = create_array(path, np.float32, (len(images), encoder.dim))
    with tqdm(total=len(images), desc=description, unit=" images", disable=None) as bar:
        for start in range(0, len(images), batch_size):
            batch = np.ascontiguousarray(images[start : start + batch_size])
            embeddings[start : start + len(batch)] = encoder(batch)
            bar.update(len(batch))
