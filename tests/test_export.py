"""The encoder contract: what is in encoder.onnx, what it gives, and what is refused."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from models.backbones import build_backbone
from pipeline.encoder.export import OPSET, PixelEncoder, check_parity, load_backbone, trace, write_onnx
from pipeline.encoder.runtime import Encoder
from pipeline.errors import MachineError, UserError
from tests.conftest import ROOT

pytestmark = pytest.mark.xdist_group("export")  # one file, made once

METADATA: dict[str, Any] = {"name": "test", "image_size": 20, "feature_dim": 16, "mean": [0.1, 0.2, 0.3]}


@pytest.fixture(scope="module")
def module() -> PixelEncoder:
    torch.manual_seed(0)
    backbone = build_backbone("resnet20", width=4, image_size=20).module
    backbone(torch.rand(8, 3, 20, 20))  # moves the running statistics of the batch norms
    return PixelEncoder(backbone, [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]).eval()


@pytest.fixture(scope="module")
def path(module: PixelEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder") / "encoder.onnx"
    write_onnx(trace(module, 20), module, METADATA, path)
    return path


def pixels(batch_size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(batch_size).integers(0, 256, (batch_size, 20, 20, 3), dtype=np.uint8)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
def test_any_batch_gives_what_torch_gives(path: Path, module: PixelEncoder, batch_size: int) -> None:
    images = pixels(batch_size)
    scaled = (images / 255 - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6]
    with torch.no_grad():
        features = module.backbone(torch.tensor(scaled, dtype=torch.float32).permute(0, 3, 1, 2))
    actual = Encoder.open(path, device="cpu")(images)
    np.testing.assert_allclose(actual, F.normalize(features, dim=1).numpy(), atol=1e-5)


def test_the_graph_is_the_contract_to_any_runtime(path: Path) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (images,), (embeddings,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type) == ("images", "tensor(uint8)")
    assert images.shape == ["batch", 20, 20, 3]
    assert (embeddings.name, embeddings.type) == ("embeddings", "tensor(float)")
    assert embeddings.shape == ["batch", 16]


def test_embeddings_have_length_one(path: Path) -> None:
    lengths = np.linalg.norm(Encoder.open(path, device="cpu")(pixels(7)), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)


def test_the_file_is_whole_alone_and_names_no_path(path: Path) -> None:
    assert list(path.parent.iterdir()) == [path]
    onnx.checker.check_model(onnx.load(path), full_check=True)
    content = path.read_bytes()
    for origin in (b".py", b"site-packages", str(ROOT).encode(), str(Path.home()).encode()):
        assert origin not in content, origin


def test_metadata_and_opset_are_what_was_asked(path: Path) -> None:
    model = onnx.load(path)
    assert {opset.domain: opset.version for opset in model.opset_import}[""] == OPSET
    assert Encoder.open(path, device="cpu").metadata == METADATA


def test_the_same_module_exports_to_the_same_bytes(path: Path, module: PixelEncoder, tmp_path: Path) -> None:
    write_onnx(trace(module, 20), module, METADATA, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_other_weights_in_a_traced_graph_are_the_export_of_a_module_with_them(
    path: Path, module: PixelEncoder, tmp_path: Path
) -> None:
    """Among them all that is folded: the batch norms into the convolutions, mean and deviation."""
    rng = torch.Generator().manual_seed(0)
    other = PixelEncoder(copy.deepcopy(module.backbone), [0.0] * 3, [1.0] * 3).eval()
    with torch.no_grad():
        for value in (*other.parameters(), *other.buffers()):
            value.copy_(torch.rand(value.shape, generator=rng) + 0.5)
    write_onnx(trace(other, 20), module, METADATA, tmp_path / "exchanged.onnx")
    assert (tmp_path / "exchanged.onnx").read_bytes() == path.read_bytes()


def test_the_gate_passes_what_agrees(path: Path, module: PixelEncoder) -> None:
    parity = check_parity(module, Encoder.open(path, device="cpu"), 1e-5, 0.99999)
    assert parity.max_abs_difference <= 1e-5
    assert parity.min_cosine >= 0.99999


class Nothing(torch.nn.Module):
    """Finds nothing in any image, as behind rectifiers that are dead."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.relu(images.mean(dim=(2, 3)) - 1e6)


def test_the_gate_passes_a_network_that_finds_nothing_where_torch_finds_nothing(
    path: Path, module: PixelEncoder, tmp_path: Path
) -> None:
    nothing = PixelEncoder(Nothing(), [0.0] * 3, [1.0] * 3).eval()
    write_onnx(trace(nothing, 20), nothing, METADATA, tmp_path / "nothing.onnx")
    silent = Encoder.open(tmp_path / "nothing.onnx", device="cpu")
    parity = check_parity(nothing, silent, 1e-5, 0.99999)
    assert (parity.max_abs_difference, parity.min_cosine) == (0, 1)
    with pytest.raises(MachineError, match="disagree"):
        sees = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        check_parity(PixelEncoder(sees, [0.0] * 3, [1.0] * 3).eval(), silent, 1e-5, 0.99999)


def test_the_gate_stops_an_encoder_whose_mean_is_off_by_a_hundredth(path: Path, module: PixelEncoder) -> None:
    other = PixelEncoder(module.backbone, [0.11, 0.2, 0.3], [0.4, 0.5, 0.6]).eval()
    with pytest.raises(MachineError, match="onnxruntime and torch disagree: largest difference"):
        check_parity(other, Encoder.open(path, device="cpu"), 1e-5, 0.99999)


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 20, 20, 3), np.float32), np.zeros((1, 21, 20, 3), np.uint8), np.zeros(3, np.uint8)],
)
def test_other_pixels_than_the_encoders_are_refused(path: Path, images: Any) -> None:
    with pytest.raises(ValueError, match=r"the encoder takes uint8 \[B, 20, 20, 3\]"):
        Encoder.open(path, device="cpu")(images)


def test_a_missing_encoder_names_its_stage(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"encoder\.onnx: missing, stage 'export' makes it"):
        Encoder.open(tmp_path / "encoder.onnx")


@pytest.mark.parametrize("kept", [0, 100, 10_000])
def test_a_truncated_encoder_is_one_line(path: Path, tmp_path: Path, kept: int) -> None:
    broken = tmp_path / "encoder.onnx"
    broken.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="not an ONNX file that onnxruntime can load") as error:
        Encoder.open(broken, device="cpu")
    assert "\n" not in str(error.value)


def test_an_onnx_file_of_someone_else_is_refused(path: Path, tmp_path: Path) -> None:
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UserError, match="not an encoder of stage 'export'"):
        Encoder.open(tmp_path / "other.onnx", device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_that_falls_back_to_the_cpu_is_an_error(path: Path) -> None:
    assert Encoder.open(path, device="auto").provider == "CPUExecutionProvider"
    with pytest.raises(MachineError, match="device is cuda, but onnxruntime would run on CPUExecution"):
        Encoder.open(path, device="cuda")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_backbone_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "backbone.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"not a backbone of stage 'pretrain'.*'dvc repro --force pretrain'"):
        load_backbone(path)
