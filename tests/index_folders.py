"""Index folders made by hand in seconds, without a training: photographs, a million rows, none at all."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import onnx
import pandas as pd
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pipeline.collection.sources.scenes import ARCHIVE
from pipeline.encoder.runtime import Encoder
from pipeline.images import decode
from pipeline.search.index_folder import Built, IndexFolder

SIZE = 64  # of the photographs that come with the project
HOSTILE_CLASS = "<script>alert(1)</script>"
HOSTILE_SOURCE = "=1+1,<b>bold</b>.jpg"
_EVERY = 4  # of 1,200 photographs, 300
_MIDDLE = 127.5  # of a byte


@dataclass(frozen=True)
class Photographs:
    """What an index folder was made of.

    Attributes:
        folder: of the index.
        pixels: uint8 [N, SIZE, SIZE, 3].
        contents: of the files, N.
        manifest: a row an image.
    """

    folder: Path
    pixels: NDArray[np.uint8]
    contents: list[bytes]
    manifest: pd.DataFrame


def index_photographs(folder: Path) -> Photographs:
    """300 photographs of six classes; the last one has a class and a name that are markup and a formula."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = sorted(archive.namelist())[::_EVERY]
        contents = [archive.read(name) for name in names]
    pixels = np.stack([decode(content, SIZE).pixels for content in contents])
    splits, classes = zip(*(name.split("/")[:2] for name in names), strict=True)
    manifest = _manifest(list(splits), list(classes), names)
    manifest.loc[len(names) - 1, ["class_name", "source"]] = [HOSTILE_CLASS, HOSTILE_SOURCE]
    _write_index(folder, manifest, 8, pixels)
    return Photographs(folder, pixels, contents, manifest)


def index_made_up(folder: Path, count: int, num_classes: int) -> None:
    """Vectors at random, of 12 dimensions, in as many classes."""
    numbers = np.arange(count)
    classes = np.char.add("class ", (numbers % num_classes).astype(str)).astype(object)
    splits = np.where(numbers % 5 == 0, "test", "train").astype(object)
    sources = np.char.add(numbers.astype(str), ".png").astype(object)
    vectors = np.random.default_rng(0).standard_normal((count, 12), dtype=np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    _write_index(folder, _manifest(splits, classes, sources), 2, vectors=vectors)


def _manifest(
    splits: "Sequence[str] | NDArray[np.object_]",
    classes: "Sequence[str] | NDArray[np.object_]",
    sources: "Sequence[str] | NDArray[np.object_]",
) -> pd.DataFrame:
    columns = {"split": splits, "class_name": classes, "source": sources}
    return pd.DataFrame({"id": np.arange(len(sources)), **columns, "sha256": "0" * 64})


def _write_index(
    folder: Path,
    manifest: pd.DataFrame,
    cells: int,
    pixels: NDArray[np.uint8] | None = None,
    vectors: NDArray[np.float32] | None = None,
) -> None:
    folder.mkdir(parents=True)
    encoder = folder.parent / f"{folder.name}.onnx"
    write_average_encoder(encoder, cells)
    opened = Encoder.open(encoder, "cpu")
    if vectors is None:
        assert pixels is not None
        vectors = opened(pixels)
    index = faiss.IndexFlatIP(opened.dim)
    index.add(vectors)
    built = Built(
        dimension=opened.dim,
        count=len(vectors),
        factory="Flat",
        search_parameters={},
        recall_at_10=1.0,
        recall_at_10_low=1.0,
        recall_at_10_high=1.0,
        target_recall=0.95,
        work_per_query=len(vectors),
        bytes_per_vector=4 * opened.dim,
        runners_up=(),
    )
    IndexFolder(folder).write(index, built, encoder, manifest, "0" * 64)


def write_average_encoder(path: Path, cells: int) -> None:
    """An encoder that learned nothing: the mean colours of `cells` x `cells` fields, less the middle grey."""
    dim = cells * cells * 3
    given = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])
    made = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", dim])
    side = SIZE // cells
    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["numbers", "middle"], ["centred"]),
        helper.make_node("Transpose", ["centred"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["means"], kernel_shape=[side] * 2, strides=[side] * 2),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("LpNormalization", ["flat"], ["embeddings"], axis=1, p=2),
    ]
    middle = numpy_helper.from_array(np.array(_MIDDLE, dtype=np.float32), "middle")
    model = helper.make_model(
        helper.make_graph(nodes, "encoder", [given], [made], [middle]),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    metadata = {"image_size": str(SIZE), "feature_dim": str(dim), "name": '"averages"', "method": '"none"'}
    helper.set_model_props(model, metadata | {"version": '"1"', "backbone": '"means"'})
    onnx.save(model, path)
