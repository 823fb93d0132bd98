"""What a change of a large index folder costs: `python -m benchmarks.index.changes`.

A million made-up embeddings of 128 dimensions, with names, classes and thumbnails, become an index folder as
stage `index` writes it. Then images join it and leave it, it is asked and browsed, verified and compacted. A
toy encoder (one matrix) embeds, so that what is measured is the folder.
"""

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from pipeline import ImageIndex
from pipeline.params.index import Index
from pipeline.search.building.index import make_index
from pipeline.search.changes.adding import add
from pipeline.search.changes.compacting import compact
from pipeline.search.changes.removing import remove
from pipeline.search.changes.verifying import verify
from pipeline.search.index_folder import IndexFolder

SIZE = 32  # pixels
_CLASSES = 100
_ASKED = 50


def write_encoder(path: Path, dim: int, size: int = SIZE, seed: int = 0, **more: str) -> None:
    """A file under the encoder contract: pixels, less their mean, times a random matrix, of length 1.

    What else is given goes to its metadata.
    """
    weights = np.random.default_rng(seed).standard_normal((size * size * 3, dim)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "shape"], ["flat"]),
        helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["flat", "mean"], ["centred"]),
        helper.make_node("MatMul", ["centred", "weights"], ["features"]),
        helper.make_node("LpNormalization", ["features"], ["embeddings"], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", size, size, 3])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", dim])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([-1, size * size * 3]), "shape"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    metadata = {"name": "toy", "version": str(seed), "image_size": size, "feature_dim": dim} | more
    helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    onnx.save(model, path)


def made_up_manifest(count: int, num_classes: int) -> pd.DataFrame:
    """Rows of images that there are none of."""
    numbers = np.arange(count)
    return pd.DataFrame(
        {
            "id": numbers,
            "split": np.where(numbers < 0.8 * count, "train", "test"),
            "class_name": [f"class {number % num_classes:03}" for number in numbers],
            "source": [f"photos/{number % 1000:03}/{number:07}.jpg" for number in numbers],
            "sha256": [hashlib.sha256(b"%d" % number).hexdigest() for number in numbers],
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="images of the folder")
    parser.add_argument("--added", type=int, default=1000, help="images that join it")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--factory", default="auto")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "index"
        _build(folder, arguments.count, arguments.dim, arguments.factory)
        photos = _photos(Path(scratch) / "photos", arguments.added)
        _measure(folder, photos, arguments.added)


def _build(folder: Path, count: int, dim: int, factory: str) -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((1000, dim), dtype=np.float32)
    embeddings = 0.7 * rng.standard_normal((count, dim), dtype=np.float32)
    embeddings += centres[rng.integers(0, len(centres), count)]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    params = Index(
        factory=factory, memory_gib=8, target_recall=0.95, num_queries=1000, seed=0, thumbnail_size=96
    )
    with _timed("index built and tuned"):
        made = make_index([embeddings], params)
        index, built = made.index, made.built
    print(f"  {built.factory}, {built.search_parameters}, recall@10 {built.recall_at_10:.4f}")
    manifest = made_up_manifest(count, _CLASSES)
    encoder = folder.with_suffix(".onnx")
    write_encoder(encoder, dim)
    pixels = np.broadcast_to(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8), (count, SIZE, SIZE, 3))
    folder.mkdir()
    with _timed("files written, thumbnails among them"):
        IndexFolder(folder).write(index, built, encoder, manifest, "0" * 64, [pixels], params.thumbnail_size)
    print(f"  {_mib(sum(file.stat().st_size for file in folder.iterdir()))} in all")


def _photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in range(count):
        pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05}.png", compress_level=1)
    return folder


def _measure(folder: Path, photos: Path, num_added: int) -> None:
    before = {file.stat().st_ino for file in folder.iterdir()}
    with _timed(f"add {num_added:,} images"):
        added = add(folder, [photos])
    print(f"  {_mib(_written(folder, before))} written, ids {added.ids[0]} to {added.ids[-1]}")
    before = {file.stat().st_ino for file in folder.iterdir()}
    one = photos / "one.png"
    Image.fromarray(np.full((SIZE, SIZE, 3), 7, dtype=np.uint8)).save(one)
    with _timed("add 1 image"):
        add(folder, [one])
    print(f"  {_mib(_written(folder, before))} written")
    before = {file.stat().st_ino for file in folder.iterdir()}
    with _timed("remove 100 images"):
        remove(folder, range(100))
    print(f"  {_mib(_written(folder, before))} written")
    with _timed("open"):
        index = ImageIndex.open(folder)
    with _timed("open again with the same encoder"):
        index = ImageIndex.open(folder, encoder=index.encoder)
    with _timed("classes and splits, the first time"):
        print(f"  {len(index.classes)} classes, {index.splits}")
    step = (len(index) - 300) // _ASKED
    rng = np.random.default_rng(2)
    queries = rng.standard_normal((_ASKED, index.card.dimension), dtype=np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    _median("search, k 10", lambda number: index.answers_of(queries[number : number + 1], None, 10))
    _median(
        "search within a class of a hundredth, k 10",
        lambda number: index.answers_of(queries[number : number + 1], None, 10, class_name="class 007"),
    )
    _median("browse 100 of a class", lambda number: index.rows(10 * number, 100, class_name="class 007"))
    _median("browse 100 of all", lambda number: index.rows(step * number, 100))
    _median("thumbnail", lambda number: index.thumbnail(step * number + 200))
    with _timed("lookalike query, a process of its own"):
        command = [sys.executable, "-m", "pipeline.cli.main", "query", str(one), "--index", str(folder)]
        subprocess.run(command, check=True, capture_output=True)
    with _timed("verify"):
        verified = verify(folder)
    print(f"  {len(verified.faults)} wrong, recall@10 {verified.recall}")
    with _timed("compact"):
        compacted = compact(folder)
    print(f"  {compacted.card.count:,} images, recall@10 {compacted.card.recall_at_10:.4f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(f"most memory, the building's own included: {_mib(peak)}")


def _written(folder: Path, before: set[int]) -> int:
    """Bytes of the files that were not linked from the generation before."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.stat().st_ino not in before)


def _median(what: str, ask: Callable[[int], object]) -> None:
    seconds = []
    for number in range(_ASKED):
        started = time.perf_counter()
        ask(number)
        seconds.append(time.perf_counter() - started)
    median_ms, most_ms = 1000 * statistics.median(seconds), 1000 * max(seconds)
    print(f"{what}: {median_ms:.2f} ms at the median, {most_ms:.1f} at most")


@contextmanager
def _timed(what: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - started:.2f} s", flush=True)


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


if __name__ == "__main__":
    main()
