"""What stage `embed` embeds: which network over which rows of which array, and the scratch of all of it."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT

import numpy as np
import onnxruntime
import pyarrow.parquet
from numpy.typing import NDArray

from pipeline.arrays import create_array
from pipeline.artifacts import Artifacts, sha256_of
from pipeline.atomic import atomic_file
from pipeline.encoder.runtime import Encoder
from pipeline.encoder.shards import Shards
from pipeline.errors import StoppedError, existing
from pipeline.evaluation.scored import scored_images
from pipeline.params.embed import Embed
from pipeline.provenance.imports import stage_sha256

_DIGITS = 16


@dataclass(frozen=True)
class Pass:
    """One network over some rows of one array: what becomes one file of `data/embeddings`.

    Attributes:
        name: of the file, relative to the folder and without its ending.
        encoder: the network.
        network: its file.
        images: .npy of uint8 [N, H, W, 3].
        rows: of these, int64 [R].
        ids: that the manifest knows them by, int64 [R].
    """

    name: str
    encoder: Encoder
    network: Path
    images: Path
    rows: NDArray[np.int64]
    ids: NDArray[np.int64]


def passes_of(data: Artifacts, encoder: Encoder, start: Encoder) -> list[Pass]:
    """Every image through the encoder, the scored ones through the start, and the views through both.

    Where the start is the encoder it is one network, and embeds nothing of its own. Views are left out where
    the encoder was trained on another state of the collection: they are of other images then.
    """
    scored = scored_images(data.read_manifest(["split", "label"]))
    networks = [(encoder, data.encoder, Path())]
    if start.sha256 != encoder.sha256:
        networks.append((start, data.start_encoder, Path(data.start_embeddings.name)))
    passes, first_id = [], 0
    for split in data.splits():
        path, num_images = data.images / f"{split}.npy", len(data.read_images(split))
        for network, file, folder in networks:
            rows = np.arange(num_images) if network is encoder else scored.features_of(split)
            if len(rows) or network is encoder:
                passes.append(Pass(str(folder / split), network, file, path, rows, first_id + rows))
        first_id += num_images
    if encoder.metadata.get("data_sha256") == data.read_collection()["sha256"]:
        rows = np.arange(len(data.read_augmented()))
        # `train` is the first of the splits: its rows are ids
        for network, file, folder in networks:
            name = str(folder / data.augmented.stem)
            passes.append(Pass(name, network, file, data.augmented, rows, scored.viewed))
    return passes


class Scratch:
    """What is embedded already, of one state of params, images, networks and code.

    Args:
        folder: of this state alone.
        data: of the run.
    """

    def __init__(self, folder: Path, data: Artifacts) -> None:
        self._folder = folder
        if not (folder / "digests.npy").exists():
            _write_digests(data.manifest, folder / "digests.npy")
        self._digests = np.load(folder / "digests.npy", mmap_mode="r")

    def shards(self, of: Pass, batch_size: int) -> Shards:
        """The parts of a pass."""
        return Shards.open(self._folder / of.name, of.rows, of.ids, self._digests, batch_size)

    def remove(self) -> None:
        """Its outputs stand: nothing goes on from here."""
        shutil.rmtree(self._folder)


@contextmanager
def scratch_of(root: Path, name: str, data: Artifacts) -> Iterator[Scratch]:
    """The scratch of this name, which stays until somebody removes it; that of any other state goes now.

    So there is one at a time, as large as the embeddings and 72 bytes an image. Who calls it holds the lock
    of the outputs.

    Raises:
        StoppedError: Ctrl-C; what was embedded is kept.
    """
    for other in root.glob("*"):
        if other.name != name:
            print(
                f"embed: what was embedded under other params, images or code is removed: {other}", flush=True
            )
            shutil.rmtree(other)
    scratch = Scratch(root / name, data)
    try:
        yield scratch
    except KeyboardInterrupt:
        raise StoppedError(
            "interrupted; what was embedded is kept: the same command goes on from there", SIGINT
        ) from None


def scratch_name(params: Embed, data: Artifacts, encoder: Encoder, start: Encoder) -> str:
    """A name for all that the embeddings depend on: params, images, networks, code, runtime and threads.

    Args:
        params: of the stage.
        data: of the run.
        encoder: the encoder.
        start: the start.

    Returns:
        16 hexadecimal digits.
    """
    parts = [
        params.embedded(),
        data.read_collection(),
        sha256_of(data.manifest),
        sha256_of(existing(data.augmented, made_by="pretrain")),
        *(encoder.sha256, start.sha256),
        *(stage_sha256("embed"), onnxruntime.__version__),
        # another device or number of threads adds in another order; a worker of Ray's has one
        *(encoder.provider, os.cpu_count() if params.engine == "local" else 1),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_DIGITS]


def _write_digests(manifest: Path, path: Path) -> None:
    """The sha256 of every image's file, as bytes by its id: uint8 [N, 32]."""
    start = 0
    with pyarrow.parquet.ParquetFile(manifest, pre_buffer=False) as file, atomic_file(path) as partial:
        digests = create_array(partial, np.uint8, (file.metadata.num_rows, 32))
        for batch in file.iter_batches(columns=["sha256"]):
            text = "".join(batch.column(0).to_pylist())
            digests[start : start + len(batch)] = np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, 32)
            start += len(batch)
