"""Any image files to a table of embeddings, on this machine: `lookalike embed`."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from tqdm import tqdm

from pipeline.collection.places import Place
from pipeline.encoder.from_files.embed_each import Embedded, Passed, Skipped, embed_parts
from pipeline.encoder.from_files.parts import list_for_one_reader, read_parts
from pipeline.encoder.from_files.shards import TableShards, shards_of_table
from pipeline.encoder.runtime import Encoder

_MODULE = "pipeline/encoder/from_files/embed_files.py"


def embed_files(
    encoder: Encoder, paths: Sequence[Place], batch_size: int, output: Path
) -> tuple[int, list[Skipped]]:
    """Writes a Parquet table, a row an image, and goes on with the parts that a run before it finished.

    Rows stand in the order of `paths`, within a folder in the order of the names, within an archive as it was
    packed; files that come while it runs are left out. Images are decoded on every core, into a scratch array
    on disk that holds those of some batches. A batch is of one part, so the encoder is given the same ones
    however often somebody stopped it.

    Args:
        encoder: gives float32 [B, D], L2-normalised.
        paths: image files, folders, .tar, .tar.gz, .tgz and .zip of them, and Parquet tables of images, here
            or elsewhere.
        batch_size: images that the encoder is given at a time.
        output: of the table, which appears when all of it is written; its shards take as much disk again.

    Returns:
        How many rows there are, and what was left out.

    Raises:
        UserError: there is no such path, an archive is damaged, or no image can be read.
        MachineError: the process of an image was killed, most likely for want of memory, or another process
            is writing this table.
        StoppedError: Ctrl-C; the finished parts are kept.
    """
    # another device or number of threads adds in another order
    made_by = [_MODULE, batch_size, encoder.provider, os.cpu_count()]
    with shards_of_table(output, partial(list_for_one_reader, paths), encoder, made_by) as shards:
        for number, outcomes in groupby(_embed_missing(encoder, shards, batch_size), itemgetter(0)):
            shards.write(number, encoder, (outcome for _, outcome in outcomes))
        return shards.assemble(encoder, output)


def _embed_missing(
    encoder: Encoder, shards: TableShards, batch_size: int
) -> Iterator[tuple[int, Embedded | Passed | Skipped]]:
    """What comes of each image of the parts that are not finished, with the number of its part."""
    counts = [part.num_images or 0 for part in shards.parts]
    missing = shards.missing()
    num_left = sum(counts[number] for number in missing)
    total = sum(counts)
    if not missing:
        return
    with tqdm(total=total, initial=total - num_left, desc="embed", unit=" images", disable=None) as bar:
        parts = read_parts(shards.parts, missing, shards.listing)
        for number, outcome in embed_parts(encoder, parts, num_left, batch_size):
            bar.update(len(outcome.reads) if isinstance(outcome, Embedded) else 1)
            yield number, outcome
