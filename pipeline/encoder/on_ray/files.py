"""Any image files to a table of embeddings by Ray's workers: `lookalike embed --engine ray`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from pipeline.collection.places import Place
from pipeline.encoder.from_files.embed_each import Skipped, embed_members
from pipeline.encoder.from_files.parts import list_parts, members_in
from pipeline.encoder.from_files.shards import TableShards, shards_of_table
from pipeline.encoder.on_ray.cluster import begin_try, cluster, end_tries, on_actors
from pipeline.encoder.runtime import Encoder

if TYPE_CHECKING:
    from pipeline.params.section import Device

_MODULE = "pipeline/encoder/on_ray/files.py"


def embed_files_on_ray(
    encoder: Path,
    paths: Sequence[Place],
    batch_size: int,
    output: Path,
    device: "Device",
    address: str | None,
) -> tuple[int, list[Skipped]]:
    """Writes the table that `embed_files` does, in the same parts, but that a .tar.gz is one of them.

    Of a cluster of several machines each must see the folder of the shards, beside the table, and every local
    path, under the same name.

    Args:
        encoder: the file.
        paths: image files, folders, archives, and tables of images, here or elsewhere.
        batch_size: images that the encoder is given at a time.
        output: of the table, which appears when all of it is written.
        device: what the workers embed on; `auto` is the GPUs where the cluster has some.
        address: of the cluster; None: RAY_ADDRESS, or this machine alone.

    Returns:
        How many rows there are, and what was left out.

    Raises:
        UserError: there is no such path, an archive or a table is damaged, or no image can be read.
        MachineError: Ray is not installed or not there, a file elsewhere cannot be reached, or workers were
            killed again and again.
        StoppedError: Ctrl-C; the finished parts are kept.
    """
    opened = Encoder.open(encoder, "cpu")
    made_by = [_MODULE, batch_size, device]
    with shards_of_table(output, partial(list_parts, paths), opened, made_by) as shards:
        _embed_missing(_Job(shards, encoder.resolve(), batch_size), device, address)
        return shards.assemble(opened, output)


@dataclass(frozen=True)
class _Job:
    """What a worker is told once."""

    shards: TableShards
    encoder: Path
    batch_size: int


class FilesWorker:
    """One session and one process that decodes, which write shard after shard.

    Args:
        job: what there is.
        cuda: whether it has a GPU; else it has one core, and one thread.
    """

    def __init__(self, job: _Job, *, cuda: bool) -> None:
        self._job = job
        self._encoder = Encoder.open(job.encoder, "cuda" if cuda else "cpu", num_threads=1)

    def __call__(self, item: dict[str, int]) -> int:
        """Writes a shard, if it is not there; gives its number."""
        number, shards = item["shard"], self._job.shards
        path, part = shards.path(number), shards.parts[number]
        if not path.exists():  # else its worker was killed after it had written it
            begin_try(path, f"shard {number}, {part.place or 'of files'}")
            members = members_in(part, shards.listing)
            outcomes = embed_members(self._encoder, members, sys.maxsize, self._job.batch_size, num_workers=1)
            shards.write(number, self._encoder, outcomes)
            end_tries(path)
        return number


def _embed_missing(job: _Job, device: "Device", address: str | None) -> None:
    shards = job.shards
    items = [{"shard": number} for number in shards.missing()]
    if not items:
        return
    for item in items:
        end_tries(shards.path(item["shard"]))
    total = len(shards.parts)
    with (
        cluster(address),
        tqdm(
            total=total, initial=total - len(items), desc="embed on Ray", unit=" shards", disable=None
        ) as bar,
    ):
        for _ in on_actors(FilesWorker, [job], items, device):
            bar.update()
