"""Rows of arrays through Ray's workers, a shard at a time: engine `ray` of stage `embed`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.arrays import read_array
from pipeline.encoder.embed import embed_rows
from pipeline.encoder.on_ray.cluster import begin_try, cluster, end_tries, on_actors
from pipeline.encoder.runtime import Encoder
from pipeline.encoder.shards import Shards
from pipeline.params.embed import Embed


@dataclass(frozen=True)
class ShardsOf:
    """What a worker is told of one pass.

    Attributes:
        encoder: the network's file.
        images: .npy of uint8 [N, H, W, 3].
        shards: the folder.
    """

    encoder: Path
    images: Path
    shards: Path


class ShardWorker:
    """One session, which writes shard after shard.

    Args:
        passes: what there is.
        batch_size: images that the network is given at a time.
        cuda: whether it has a GPU; else it has one core, and one thread.
    """

    def __init__(self, passes: Sequence[ShardsOf], batch_size: int, *, cuda: bool) -> None:
        self._passes, self._batch_size, self._cuda = passes, batch_size, cuda
        self._opened: Path | None = None

    def __call__(self, item: dict[str, int]) -> int:
        """Writes a shard of a pass, if it is not there; gives the number of its images, or 0."""
        of, number = self._passes[item["pass"]], item["shard"]
        shards = Shards(of.shards, self._batch_size)
        num_images = 0
        if not shards.has(number):  # its worker was killed after it had written it
            begin_try(shards.path(number), f"{of.images}: rows from {shards.rows(number)[0]:,}")
            encoder = self._open(of.encoder)
            rows = shards.rows(number)
            num_images = len(rows)
            images = read_array(of.images, made_by="fetch")
            embeddings = [*embed_rows(encoder, images, rows, self._batch_size)]
            shards.write(number, np.concatenate(embeddings))
            end_tries(shards.path(number))
        return num_images

    def _open(self, path: Path) -> Encoder:
        if self._opened != path:
            self._encoder = Encoder.open(path, "cuda" if self._cuda else "cpu", num_threads=1)
            self._opened = path
        return self._encoder


def embed_shards_on_ray(passes: Sequence[tuple[ShardsOf, Shards]], params: Embed) -> int:
    """Writes the shards of all passes that are not there yet; returns how many images were embedded.

    Workers read the arrays and write the shards themselves: of a cluster of several machines each must see
    them under the same path.
    """
    items = [
        {"pass": number, "shard": shard}
        for number, (_, shards) in enumerate(passes)
        for shard in shards.missing()
    ]
    if not items:
        return 0
    for item in items:
        end_tries(passes[item["pass"]][1].path(item["shard"]))
    num_images = 0
    arguments = [[of for of, _ in passes], params.batch_size]
    with (
        cluster(params.ray_address),
        tqdm(total=len(items), desc="embed on Ray", unit=" shards", disable=None) as bar,
    ):
        for embedded in on_actors(ShardWorker, arguments, items, params.device):
            num_images += embedded
            bar.update()
    return num_images
