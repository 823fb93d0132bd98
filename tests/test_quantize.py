"""An encoder in fewer bits: the contract holds, what it loses is measured right, and too much is refused."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import save
from torch import nn

from models.backbones import build_backbone
from pipeline.encoder.drift import Drift, Images, check_drift, measure_drift
from pipeline.encoder.export import Parity, PixelEncoder, export_backbones, trace, write_onnx
from pipeline.encoder.quantize import write_fp16, write_int8
from pipeline.encoder.runtime import Encoder
from pipeline.errors import UserError
from pipeline.params.export import Tolerance
from pipeline.params.reader import Params
from stages import export
from tests.conftest import ROOT, change_params

SIZE, DIM = 32, 16
METADATA: dict[str, Any] = {"name": "test", "image_size": SIZE, "feature_dim": DIM}
LABELS = np.repeat(np.arange(3), 20)
FIRST = "convolutions.0.weight"  # of conv4
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def striped(num_images: int = 60, seed: int = 0) -> Pixels:
    """Stripes across, stripes down and noise: something to tell apart."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 90, (num_images, SIZE, SIZE, 3), dtype=np.uint8)
    images[: num_images // 3, ::4] += 150
    images[num_images // 3 : 2 * num_images // 3, :, ::4] += 150
    return images


def written(backbone: nn.Module, path: Path, dim: int = DIM, center: torch.Tensor | None = None) -> Path:
    """An encoder in float32, with the mean and deviation of ImageNet."""
    module = PixelEncoder(backbone, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], center).eval()
    metadata = METADATA | {"feature_dim": dim}
    write_onnx(trace(module, metadata["image_size"]), module, metadata, path)
    return path


def trained(name: str, width: int) -> nn.Module:
    torch.manual_seed(0)
    backbone = build_backbone(name, width=width, image_size=SIZE).module
    with torch.no_grad():
        backbone(torch.from_numpy(striped()).permute(0, 3, 1, 2) / 255)  # moves the batch norms' statistics
    return backbone.eval()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder") / "encoder.onnx"
    return written(trained("resnet10", 4), path, dim=32, center=torch.full((32,), 0.1))


@pytest.fixture(scope="module")
def int8(encoder: Path) -> Path:
    write_int8(encoder, striped(), encoder.with_name("int8.onnx"))
    return encoder.with_name("int8.onnx")


@pytest.fixture(scope="module")
def fp16(encoder: Path) -> Path:
    write_fp16(encoder, encoder.with_name("fp16.onnx"))
    return encoder.with_name("fp16.onnx")


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_fewer_bits_keep_the_contract(encoder: Path, precision: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(precision)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (images,), (embeddings,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", SIZE, SIZE, 3])
    assert (embeddings.name, embeddings.type) == ("embeddings", "tensor(float)")
    assert embeddings.shape == ["batch", 32]
    opened, reference = Encoder.open(path, device="cpu"), Encoder.open(encoder, device="cpu")
    assert opened.metadata == METADATA | {"feature_dim": 32, "precision": precision}
    for batch_size in (1, 2, 7):
        asked = striped(batch_size + 3, seed=1)[:batch_size]
        found = opened(asked)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
        least = 0.98 if precision == "int8" else 0.99999
        assert ((found * reference(asked)).sum(axis=1) > least).all()


def constants(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}


def test_weights_are_in_the_bits_that_the_metadata_says(encoder: Path, int8: Path, fp16: Path) -> None:
    half = fp16.stat().st_size / encoder.stat().st_size
    kinds = [
        {str(value.dtype) for value in constants(path).values() if value.ndim == 4} for path in (fp16, int8)
    ]
    # the first convolution of int8 stays in float32
    assert kinds == [{"float16"}, {"int8", "float32"}]
    assert sum(value.ndim == 4 and value.dtype == np.float32 for value in constants(int8).values()) == 1
    assert half < 0.8  # the graph itself is as large as before


TWICE = """
import sys
from pathlib import Path
import numpy as np
from pipeline.encoder.quantize import write_fp16, write_int8
write_int8(Path(sys.argv[1]), np.load(sys.argv[2]), Path(sys.argv[3]))
write_fp16(Path(sys.argv[1]), Path(sys.argv[4]))
assert "torch" not in sys.modules
"""


def test_another_process_writes_the_same_bytes_and_needs_no_torch(
    encoder: Path, int8: Path, fp16: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", striped())
    again = [tmp_path / "int8.onnx", tmp_path / "fp16.onnx"]
    command = [sys.executable, "-c", TWICE, encoder, tmp_path / "images.npy", *again]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": "1"})
    assert [path.read_bytes() for path in again] == [int8.read_bytes(), fp16.read_bytes()]


class TwoConvolutions(nn.Module):
    """The second is one pixel wide, so that its output's mean follows from its input's."""

    def __init__(self, num_features: int = 5) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, num_features, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(pixels))).mean(dim=(2, 3))


def test_a_bias_gives_back_what_the_rounding_of_its_weights_adds_to_the_mean(tmp_path: Path) -> None:
    network, images = TwoConvolutions(), striped(37)
    write_int8(written(network, tmp_path / "fp32.onnx", dim=5), images, tmp_path / "int8.onnx")
    pixels = (torch.from_numpy(images) / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    with torch.no_grad():
        inside = torch.relu(network.first(pixels.permute(0, 3, 1, 2))).double().mean(dim=(0, 2, 3))
    found = constants(tmp_path / "int8.onnx")
    scale = found["backbone.second.weight_scale"]
    rounded = found["backbone.second.weight_quantized"].squeeze() * scale[:, None]
    bias = found["backbone.second.bias_quantized"] * found["backbone.second.bias_quantized_scale"]
    weight, of_network = (each.detach().numpy().squeeze() for each in network.second.parameters())
    for row in range(5):
        added = sum((rounded[row, column] - weight[row, column]) * inside[column] for column in range(4))
        step = found["backbone.second.bias_quantized_scale"][row]
        assert abs(bias[row] - (of_network[row] - float(added))) <= step
    assert np.abs(bias - of_network).max() > 5 * step  # else there was nothing to give back


def test_a_network_of_one_convolution_is_refused_by_int8(tmp_path: Path) -> None:
    patches = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.Flatten(), nn.Linear(128, DIM))
    path = written(patches, tmp_path / "patches.onnx")
    with pytest.raises(UserError, match=r"export\.precision: int8 is for convolutions, .*: set it to fp16"):
        write_int8(path, striped(), path)
    write_fp16(path, tmp_path / "fp16.onnx")
    found, expected = (Encoder.open(each, "cpu")(striped()) for each in (tmp_path / "fp16.onnx", path))
    np.testing.assert_allclose(found, expected, atol=2e-3)


class Table:
    """Gives image i, whose pixels are all i, the i-th of some embeddings."""

    def __init__(self, embeddings: np.ndarray[Any, Any]) -> None:
        self.embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
        self.metadata = {"precision": "int8"}

    def __call__(self, images: Pixels) -> np.ndarray[Any, Any]:
        return self.embeddings[images[:, 0, 0, 0]]


def numbered(query_labels: np.ndarray[Any, Any] | None = None) -> tuple[Images, Any, Any]:
    rng = np.random.default_rng(3)
    exact = rng.standard_normal((100, 6))
    rough = Table(exact + 0.3 * rng.standard_normal(exact.shape))
    images = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None, None, None], (100, 2, 2, 3))
    labels = rng.integers(0, 3, 100)
    asked = labels[60:] if query_labels is None else query_labels
    return Images(images[:60], images[60:], labels[:60], asked), Table(exact), rough


def nearest_by_loops(table: Any, query: int) -> list[int]:
    cosines = [(-float(table.embeddings[query] @ table.embeddings[row]), row) for row in range(60)]
    return [row for _cosine, row in sorted(cosines)[:10]]


def test_overlap_and_votes_are_those_of_slow_loops() -> None:
    images, exact, rough = numbered()
    drift = measure_drift(exact, rough, images)
    shared, right = [], {id(exact): 0, id(rough): 0}
    for query in range(60, 100):
        shared.append(len(set(nearest_by_loops(exact, query)) & set(nearest_by_loops(rough, query))) / 10)
        for table in (exact, rough):
            votes = [0.0, 0.0, 0.0]
            for row in nearest_by_loops(table, query):
                weight = np.exp(float(table.embeddings[query] @ table.embeddings[row]) / 0.07)
                votes[images.bank_labels[row]] += weight
            right[id(table)] += votes.index(max(votes)) == images.query_labels[query - 60]
    assert drift.overlap_at_10 == pytest.approx(sum(shared) / 40)
    assert 0.2 < drift.overlap_at_10 < 0.95
    assert (drift.knn_top1_fp32, drift.knn_top1) == (right[id(exact)] / 40, right[id(rough)] / 40)
    cosines = [float(exact.embeddings[row] @ rough.embeddings[row]) for row in range(100)]
    assert drift.mean_cosine == pytest.approx(np.mean(cosines), abs=1e-6)


def test_without_labels_the_overlap_alone_is_measured_and_held() -> None:
    images, exact, rough = numbered(np.full(40, -1))
    drift = measure_drift(exact, rough, images)
    assert (drift.knn_top1, drift.knn_top1_fp32) == (None, None)
    check_drift(drift, "int8", Tolerance(min_overlap_at_10=drift.overlap_at_10, max_knn_loss=0.0))
    with pytest.raises(UserError, match=r"min_overlap_at_10"):
        check_drift(drift, "int8", Tolerance(min_overlap_at_10=1.0, max_knn_loss=1.0))


def test_a_loss_of_knn_beyond_the_bound_is_one_line_with_its_mend() -> None:
    drift = Drift(overlap_at_10=0.9, mean_cosine=0.99, knn_top1_fp32=0.75, knn_top1=0.5)
    check_drift(drift, "fp16", Tolerance(min_overlap_at_10=0.9, max_knn_loss=0.25))
    with pytest.raises(UserError) as error:
        check_drift(drift, "fp16", Tolerance(min_overlap_at_10=0.9, max_knn_loss=0.2))
    assert str(error.value) == (
        "export.fp16.max_knn_loss: kNN's top-1 goes from 0.750 to 0.500, at most 0.2 may be lost: set "
        "export.precision to fp32, or allow more"
    )


class OneLoudChannel(TwoConvolutions):
    """A value a thousand times the others, which the next convolution does not look at."""

    def __init__(self) -> None:
        super().__init__(num_features=DIM)
        self.third = nn.Conv2d(DIM, DIM, 1)
        with torch.no_grad():
            self.second.weight[0] *= 1000
            self.third.weight[:, 0] = 0

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.third(self.second(torch.relu(self.first(pixels)))).mean(dim=(2, 3))


def test_a_network_that_eight_bits_blind_does_not_pass(tmp_path: Path, params: Params) -> None:
    fp32 = written(OneLoudChannel(), tmp_path / "fp32.onnx")
    write_int8(fp32, striped(), tmp_path / "int8.onnx")
    opened = [Encoder.open(path, "cpu") for path in (fp32, tmp_path / "int8.onnx")]
    drift = measure_drift(*opened, Images(striped(60), striped(60, seed=1), LABELS, LABELS))
    with pytest.raises(
        UserError, match=r"^export\.int8\.min_overlap_at_10: 0\.\d+ of the ten nearest"
    ) as error:
        check_drift(drift, "int8", params.export.int8)
    assert "set export.precision to fp16 or fp32" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_too_large_for_float16_is_said(tmp_path: Path) -> None:
    loud = OneLoudChannel()
    with torch.no_grad():
        loud.second.weight[0] *= 1000
    fp32 = written(loud, tmp_path / "fp32.onnx")
    write_fp16(fp32, tmp_path / "fp16.onnx")
    opened = [Encoder.open(path, "cpu") for path in (fp32, tmp_path / "fp16.onnx")]
    with pytest.raises(UserError, match=r"export\.precision: fp16: .* values that are too large for it"):
        measure_drift(*opened, Images(striped(), striped(), LABELS, LABELS))


@pytest.fixture(scope="module")
def exported() -> Iterator[None]:
    """The same networks are exported once: that takes seconds."""
    made: dict[tuple[bytes, ...], tuple[list[bytes], list[Parity]]] = {}

    def export_once(encoders: Mapping[Path, Path], naming: Any, gate: Any) -> list[Parity]:
        networks = tuple(backbone.read_bytes() for backbone in encoders)
        if networks not in made:
            parities = export_backbones(encoders, naming, gate)
            made[networks] = [encoder.read_bytes() for encoder in encoders.values()], parities
        for encoder, content in zip(encoders.values(), made[networks][0], strict=True):
            encoder.write_bytes(content)
        return made[networks][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "export_backbones", export_once)
        yield


@pytest.fixture
def project(exported: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a project with two trained networks and no images, in which stage export runs."""

    def make(**changes: object) -> Path:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
        change_params(tmp_path / "params.yaml", changes)
        (tmp_path / "data/pretrain").mkdir(parents=True)
        card = {
            "backbone": {"name": "conv4", "width": DIM, "stem": "auto", "features": "last"},
            "image_size": SIZE,
            "feature_dim": DIM,
            "mean": [0.4] * 3,
            "std": [0.2] * 3,
        }
        weights = trained("conv4", DIM).state_dict()
        for name in ("backbone", "start"):
            content = save(weights, {"lookalike": json.dumps(card)})
            (tmp_path / f"data/pretrain/{name}.safetensors").write_bytes(content)
            weights = weights | {FIRST: weights[FIRST] * 1.1}
        return tmp_path

    return make


def give_images(project: Path) -> None:
    (project / "data/images").mkdir()
    splits = {"train": striped(60), "test": striped(60, seed=1)}
    for split, images in splits.items():
        np.save(project / f"data/images/{split}.npy", images)
    rows = [(split, label) for split in splits for label in LABELS.tolist()]
    manifest = pd.DataFrame(rows, columns=["split", "label"])
    manifest.to_parquet(project / "data/images/manifest.parquet")


def sha256s(project: Path) -> list[str]:
    return [
        hashlib.sha256((project / f"data/encoder/{name}.onnx").read_bytes()).hexdigest()
        for name in ("encoder", "start")
    ]


def test_in_float32_the_stage_reads_no_images_and_writes_what_it_always_wrote(
    project: Callable[..., Path], params: Params
) -> None:
    folder = project()
    export.main()
    naming = {"name": params.export.name, "version": params.export.version}
    files = {folder / f"data/pretrain/{name}.safetensors": folder / name for name in ("backbone", "start")}
    export.export_backbones(files, naming, params.export)
    assert sha256s(folder) == [hashlib.sha256(path.read_bytes()).hexdigest() for path in files.values()]
    assert "precision" not in Encoder.open(folder / "data/encoder/encoder.onnx", "cpu").metadata


def test_the_stage_writes_int8_in_place_of_the_encoder_alone_and_says_what_it_costs(
    project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = project()
    export.main()
    before = sha256s(folder)
    give_images(folder)
    changes = {"export.precision": "int8", "export.int8.min_overlap_at_10": 1.0}
    change_params(folder / "params.yaml", changes)
    with pytest.raises(UserError, match=r"min_overlap_at_10: 0\.\d+ .*, at least 1\.0 is asked"):
        export.main()
    assert sha256s(folder) == before
    change_params(folder / "params.yaml", {"export.int8.min_overlap_at_10": 0.3})
    export.main()
    assert sha256s(folder)[1] == before[1]
    opened = [Encoder.open(folder / f"data/encoder/{name}.onnx", "cpu") for name in ("encoder", "start")]
    assert [each.metadata.get("precision") for each in opened] == ["int8", None]
    metrics = json.loads((folder / "data/metrics/export.json").read_text())
    assert metrics["precision"] == "int8"
    assert 0.3 <= metrics["overlap_at_10"] < 1
    assert 0 <= metrics["knn_top1"] <= 1
    assert f"int8: {metrics['overlap_at_10']:.3f} of the ten nearest" in capsys.readouterr().out


def test_where_the_encoder_is_the_start_both_are_one_file_in_any_precision(
    project: Callable[..., Path],
) -> None:
    folder = project(**{"export.precision": "fp16"})
    start = folder / "data/pretrain/start.safetensors"
    start.write_bytes((folder / "data/pretrain/backbone.safetensors").read_bytes())
    give_images(folder)
    export.main()
    encoder, of_start = sha256s(folder)
    assert encoder == of_start
    assert Encoder.open(folder / "data/encoder/start.onnx", "cpu").metadata["precision"] == "fp16"
