"""Images to embeddings, streaming: any number of images in the memory of one batch."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.arrays import create_array
from pipeline.encoder.runtime import Encoder
from pipeline.encoder.shards import Shards


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
    start = 0
    with tqdm(total=len(rows), desc=description, unit=" images", disable=None) as bar:
        for batch in embed_rows(encoder, images, rows, batch_size):
            embeddings[start : start + len(batch)] = batch
            start += len(batch)
            bar.update(len(batch))


def embed_shards(encoder: Encoder, images: NDArray[np.uint8], shards: Shards, description: str) -> int:
    """Writes the shards that are not there yet, in their order; returns how many images it embedded.

    Args:
        encoder: gives float32 [B, D].
        images: uint8 [N, H, W, 3]; may be a memory map.
        shards: of rows of these images.
        description: stands before the progress bar.
    """
    missing = shards.missing()
    num_left = sum(len(shards.rows(number)) for number in missing)
    done = shards.num_rows - num_left
    with tqdm(total=shards.num_rows, initial=done, desc=description, unit=" images", disable=None) as bar:
        for number in missing:
            batches = []
            for batch in embed_rows(encoder, images, shards.rows(number), shards.batch_size):
                batches.append(batch)
                bar.update(len(batch))
            shards.write(number, np.concatenate(batches))
    return num_left


def embed_rows(
    encoder: Encoder, images: NDArray[np.uint8], rows: NDArray[np.int64], batch_size: int
) -> Iterator[NDArray[np.float32]]:
    """The embeddings of these rows, a batch at a time: float32 [B, D]."""
    for start in range(0, len(rows), batch_size):
        yield encoder(images[rows[start : start + batch_size]])
