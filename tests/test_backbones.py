"""Backbones: the published shapes, counted by hand or against torchvision, and what timm's models promise."""

from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import onnxruntime
import pytest
import timm
import torch
import torchvision
from huggingface_hub.errors import EntryNotFoundError
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from models.backbones import BACKBONES, build_backbone, published_width
from models.published_weights import NoPretrainedWeightsError, published_weights
from models.resnet_blocks import PreActivationBlock
from pipeline.encoder.export import OPSET
from pipeline.params.reader import Params
from tests.conftest import ROOT
from tests.processes import run


def num_weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_resnet20_has_the_published_number_of_weights() -> None:
    backbone = build_backbone("resnet20", width=16, image_size=32)
    # He et al. 2015, table 6: 0.27 M with the classifier. By hand: stem, then per stage 6 convolutions and
    # their norms, and the two projections of the shortcuts with theirs.
    stem = 3 * 16 * 9 + 2 * 16
    stage1 = 6 * (16 * 16 * 9 + 2 * 16)
    stage2 = (16 * 32 * 9 + 5 * 32 * 32 * 9 + 6 * 2 * 32) + (16 * 32 + 2 * 32)
    stage3 = (32 * 64 * 9 + 5 * 64 * 64 * 9 + 6 * 2 * 64) + (32 * 64 + 2 * 64)
    assert num_weights(backbone.module) == stem + stage1 + stage2 + stage3
    assert backbone.feature_dim == 64


def test_resnet20v2_has_the_number_of_weights_counted_by_hand() -> None:
    backbone = build_backbone("resnet20v2", width=16, image_size=32)
    # As the first version, but a norm has the width of its convolution's input, projections have none, and
    # one norm stands before the pooling instead of one behind the stem.
    stem = 3 * 16 * 9
    stage1 = 6 * (16 * 16 * 9 + 2 * 16)
    stage2 = (16 * 32 * 9 + 5 * 32 * 32 * 9) + (2 * 16 + 5 * 2 * 32) + 16 * 32
    stage3 = (32 * 64 * 9 + 5 * 64 * 64 * 9) + (2 * 32 + 5 * 2 * 64) + 32 * 64
    assert num_weights(backbone.module) == stem + stage1 + stage2 + stage3 + 2 * 64
    assert backbone.feature_dim == 64


# 96 -> 47 -> 23 -> 11 -> 5, the example's STL-10; 32 -> 15 -> 7 -> 3 -> 1
@pytest.mark.parametrize(("image_size", "side"), [(96, 5), (32, 1)])
def test_conv4_has_the_number_of_weights_of_the_keras_example(image_size: int, side: int) -> None:
    backbone = build_backbone("conv4", width=None, image_size=image_size)
    convolutions = (3 * 128 * 9 + 128) + 3 * (128 * 128 * 9 + 128)
    assert num_weights(backbone.module) == convolutions + (128 * side * side * 128 + 128)
    features = backbone.module(torch.rand(2, 3, image_size, image_size))
    assert features.shape == (2, 128) == (2, backbone.feature_dim)
    assert features.min() >= 0


def test_conv4_refuses_images_of_another_size_and_too_small_ones() -> None:
    backbone = build_backbone("conv4", width=8, image_size=32)
    with pytest.raises(ValueError, match="conv4 was built for images of 32 x 32 px, these are 32 x 33"):
        backbone.module(torch.rand(2, 3, 32, 33))
    build_backbone("conv4", width=8, image_size=31)
    with pytest.raises(ValueError, match=r"images of 30 px are too small.*it takes 31 px or more"):
        build_backbone("conv4", width=8, image_size=30)


TORCHVISIONS = {
    "resnet10": lambda: torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1]),
    "resnet18": torchvision.models.resnet18,
    "resnet34": torchvision.models.resnet34,
    "resnet50": torchvision.models.resnet50,
}


@pytest.mark.parametrize("features", ["last", "stages", "quadrants"])
@pytest.mark.parametrize("name", TORCHVISIONS)
def test_a_resnet_with_the_published_stem_is_torchvisions(name: str, features: str) -> None:
    torch.manual_seed(0)
    theirs = TORCHVISIONS[name]()
    theirs.fc = nn.Identity()
    images = torch.rand(4, 3, 80, 80)
    theirs(images)  # moves the running statistics of the batch norms
    pooled = []
    pool = nn.AdaptiveAvgPool2d(2 if features == "quadrants" else 1)
    for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        stage.register_forward_hook(lambda _stage, _in, out: pooled.append(pool(out).flatten(1)))
    backbone = build_backbone(name, width=None, image_size=64, stem="imagenet", features=features)
    ours, weights = backbone.module, backbone.module.state_dict()
    assert num_weights(ours) == num_weights(theirs)
    assert [each.shape for each in weights.values()] == [each.shape for each in theirs.state_dict().values()]
    ours.load_state_dict(dict(zip(weights, theirs.state_dict().values(), strict=True)))
    with torch.no_grad():
        expected, actual = theirs.eval()(images), ours.eval()(images)
    if features != "last":
        expected = torch.cat(pooled, dim=1)
    assert expected.shape == (4, backbone.feature_dim)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_the_stem_follows_the_size_of_the_images() -> None:
    def side_after_stem(image_size: int, stem: str = "auto") -> int:
        module = build_backbone("resnet18", width=8, image_size=image_size, stem=stem).module
        return int(module.get_submodule("stem")(torch.rand(1, 3, image_size, image_size)).shape[-1])

    assert (side_after_stem(32), side_after_stem(64), side_after_stem(96)) == (32, 64, 24)
    assert (side_after_stem(64, "imagenet"), side_after_stem(96, "small")) == (16, 96)
    assert (side_after_stem(32, "patch"), side_after_stem(24, "patch")) == (16, 12)


@pytest.mark.parametrize("name", ["resnet20", "resnet20v2", "resnet10", "resnet18", "resnet34", "resnet50"])
@pytest.mark.parametrize(("width", "size"), [(None, 16), (4, 24), (8, 33), (4, 80)])
def test_any_width_and_image_size_gives_the_features_it_promises(
    name: str, width: int | None, size: int
) -> None:
    backbone = build_backbone(name, width=width, image_size=size)
    assert backbone.module(torch.rand(2, 3, size, size)).shape == (2, backbone.feature_dim)
    assert (backbone.mean, backbone.std) == (None, None)


def _slow_convolution(images: NDArray[Any], weight: NDArray[Any], stride: int) -> NDArray[Any]:
    """A convolution without bias as loops over the pixels; padded so that stride 1 keeps the size."""
    kernel = weight.shape[-1]
    pad = kernel // 2
    padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    height, width = (-(-side // stride) for side in images.shape[2:])
    out = np.zeros((len(images), len(weight), height, width))
    for y in range(height):
        for x in range(width):
            window = padded[:, :, y * stride : y * stride + kernel, x * stride : x * stride + kernel]
            out[:, :, y, x] = np.einsum("bcij,ocij->bo", window, weight)
    return out


@pytest.mark.parametrize(("channels", "stride", "first"), [(4, 1, False), (4, 1, True), (6, 2, False)])
def test_a_pre_activation_block_is_norm_relu_convolution_twice(
    channels: int, stride: int, first: bool
) -> None:
    """He et al. 2016, equation 5 and fig. 4e: x + W2 relu(norm(W1 relu(norm(x)))), nothing after the sum."""
    torch.manual_seed(0)
    block = PreActivationBlock(4, channels, stride, first).double()
    for norm in (block.norm1, block.norm2):
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert values is not None
            nn.init.uniform_(values, 0.5, 1.5)
    images = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    with torch.no_grad():
        actual = block.eval()(images).numpy()
    weights = {name: value.numpy() for name, value in block.state_dict().items()}

    def norm_relu(values: NDArray[Any], name: str) -> NDArray[Any]:
        weight, bias, mean, var = (
            weights[f"{name}.{part}"][:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        normed: NDArray[Any] = (values - mean) / np.sqrt(var + 1e-5) * weight + bias
        return normed.clip(min=0)

    activated = norm_relu(images.numpy(), "norm1")
    inner = _slow_convolution(activated, weights["conv1.weight"], stride)
    residual = _slow_convolution(norm_relu(inner, "norm2"), weights["conv2.weight"], 1)
    shortcut = activated if first else images.numpy()
    if stride == 2:
        shortcut = _slow_convolution(activated, weights["shortcut.weight"], stride)
    np.testing.assert_allclose(actual, residual + shortcut, atol=1e-12)
    assert actual.min() < 0


def test_resnet20v2_pools_what_its_last_norm_and_relu_give() -> None:
    torch.manual_seed(0)
    module = build_backbone("resnet20v2", width=8, image_size=16).module
    pooled: list[torch.Tensor] = []
    module.get_submodule("norm").register_forward_hook(
        lambda _module, _inputs, out: pooled.append(out.clone())
    )
    features = module(torch.randn(4, 3, 16, 16))
    assert pooled[0].min() < 0 <= features.min()
    torch.testing.assert_close(features, pooled[0].clamp(min=0).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("name", "size", "feature_dim"),
    [
        ("timm:convnext_atto", 32, 320),
        ("timm:vit_tiny_patch16_224", 96, 192),
        ("timm:resnet18", 64, 512),
        # its head adds a layer: num_features says 576
        ("timm:mobilenetv3_small_100", 64, 1024),
    ],
)
def test_a_timm_model_gives_the_features_it_promises(name: str, size: int, feature_dim: int) -> None:
    backbone = build_backbone(name, width=None, image_size=size)
    assert backbone.module.training
    assert backbone.module(torch.rand(2, 3, size, size)).shape == (2, feature_dim)
    assert backbone.feature_dim == feature_dim
    assert (backbone.mean, backbone.std) == (None, None)


def test_another_network_in_params_has_the_published_width(params: Params) -> None:
    """He et al. 2015, arXiv:1512.03385, table 1: the last stage of ResNet-18 has 512 channels."""
    chosen = params.pretrain.backbone.architecture() | {"name": "resnet18"}
    assert build_backbone(**chosen, image_size=32).feature_dim == 512


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet21", r"'resnet21' is none of resnet20, .*, timm:NAME; did you mean resnet20, "),
        ("convnext_atto", r"'convnext_atto' is none of .*; did you mean timm:convnext_atto\?"),
        ("zzz", r"'zzz' is none of .*, timm:NAME$"),
        ("timm:convnext_ato", r"'timm:convnext_ato': timm [\d.]+ has no such model, did you mean timm:conv"),
        ("timm:resnet18.tw_in1k", r"timm knows no such weights, only .*timm:resnet18\.tv_in1k"),
        ("timm:hf-hub:timm/resnet18", "has no such model"),
    ],
)
def test_an_unknown_backbone_is_refused_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        build_backbone(name, width=None, image_size=32)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet18", "stem": "large"}, "stem 'large' is none of auto, small, patch, imagenet"),
        ({"name": "resnet20", "stem": "small"}, "'resnet20' has one stem: leave stem at auto"),
        ({"name": "timm:resnet18", "stem": "small"}, "'timm:resnet18' has one stem"),
        ({"name": "resnet18", "features": "first"}, "features 'first' is none of last, stages, quadrants"),
        (
            {"name": "resnet20", "features": "stages"},
            "'resnet20' has no features stages: leave features at",
        ),
        ({"name": "timm:resnet18", "width": 16}, "'timm:resnet18' has a width of its own"),
        ({"name": "timm:test_vit", "image_size": 33}, "'timm:test_vit' cannot be built for images of 33 px"),
    ],
)
def test_what_a_backbone_does_not_have_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        build_backbone(**({"width": None, "image_size": 32} | options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "no pretrained weights.*a name like efficientnet_lite0 or timm:resnet18"),
        ("timm:coatnet_0_224", "timm has no pretrained weights of it"),
    ],
)
def test_weights_that_nobody_published_are_refused(name: str, message: str) -> None:
    with pytest.raises(NoPretrainedWeightsError, match=message) as error:
        published_weights(name)
    assert "\n" not in str(error.value)


_WITHOUT_NETWORK = """
import time
import timm
from models.published_weights import published_weights
started = time.perf_counter()
try:
    published_weights("timm:resnet18")
except ValueError as error:
    assert "\\n" not in str(error)
    print(error)
seconds = time.perf_counter() - started
assert seconds < 5, seconds
"""


def test_pretrained_weights_without_a_network_are_one_line_at_once(tmp_path: Path) -> None:
    # port 9 (discard) of this machine: nothing answers, as without a network
    hub = ("HF_ENDPOINT=http://127.0.0.1:9", "NO_PROXY=*", f"HF_HOME={tmp_path}", "HF_HUB_OFFLINE=0")
    result = run("env", *hub, "python", "-c", _WITHOUT_NETWORK, cwd=ROOT)
    assert (
        "backbone 'timm:resnet18': its pretrained weights are not in the Hugging Face cache" in result.stdout
    )
    assert "cache (HF_HOME) and cannot be fetched (" in result.stdout
    assert "): set pretrained: false, or fill that cache where there is a network" in result.stdout
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == ""


def test_pretrained_weights_come_from_the_cache_with_their_mean_and_std(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Hugging Face cache of one model, laid out by hand; no network is asked."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)
    repository = tmp_path / "models--timm--test_resnet.r160_in1k"
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc")
    torch.manual_seed(1)
    published = timm.create_model("test_resnet", num_classes=1000)
    save_file(published.state_dict(), snapshot / "model.safetensors")
    torch.manual_seed(2)
    path = published_weights("timm:test_resnet")
    backbone = build_backbone("timm:test_resnet", width=None, image_size=32, weights=path)
    weights = backbone.module.state_dict()
    assert 0 < len(weights) == len(published.state_dict()) - 2  # the classifier's
    assert all(torch.equal(weights[name], published.state_dict()[name]) for name in weights)
    # timm's notes of test_resnet.r160_in1k
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)


def test_pretrained_weights_that_are_not_cached_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub played by two functions: it has the older of the two files, and asks of it come once."""
    published = timm.create_model("test_resnet", num_classes=1000)
    torch.save(published.state_dict(), tmp_path / "pytorch_model.bin")
    asked: list[str] = []

    def metadata(url: str, timeout: float) -> None:
        asked.append(url)
        if url.endswith(".safetensors"):
            raise EntryNotFoundError("404")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda _repository, file: str(tmp_path / file))
    path = published_weights("timm:test_resnet")
    backbone = build_backbone("timm:test_resnet", width=None, image_size=32, weights=path)
    assert [url.split("/")[-1] for url in asked] == ["model.safetensors", "pytorch_model.bin"]
    weights = backbone.module.state_dict()
    assert all(torch.equal(weights[name], published.state_dict()[name]) for name in weights)


@pytest.mark.parametrize(
    ("name", "width", "size"),
    [
        ("conv4", 16, 32),
        ("resnet18", 8, 16),
        ("resnet20v2", 8, 16),
        pytest.param("timm:convnext_atto", None, 32, marks=pytest.mark.slow),
        pytest.param("timm:vit_tiny_patch16_224", None, 32, marks=pytest.mark.slow),
    ],
)
def test_any_batch_gives_in_onnxruntime_what_torch_gives(
    name: str, width: int | None, size: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = build_backbone(name, width=width, image_size=size).module
    module(torch.randn(8, 3, size, size))  # moves the running statistics of the batch norms
    module.eval()
    _export(module, size, tmp_path / "backbone.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "backbone.onnx", providers=["CPUExecutionProvider"])
    for batch_size in (1, 3):
        images = torch.randn(batch_size, 3, size, size)
        with torch.no_grad():
            expected = module(images).numpy()
        (actual,) = session.run(None, {"images": images.numpy()})
        assert np.abs(expected).max() > 1e-2
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


def _export(module: nn.Module, size: int, path: Path) -> None:
    """As `pipeline.encoder.export.trace`, but the bare features: those are not of length one."""
    torch.onnx.export(
        module,
        (torch.zeros(2, 3, size, size),),
        str(path),
        input_names=["images"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=OPSET,
        external_data=False,
        dynamo=True,
        verbose=False,
    )


_TRAINING_STEPS = """
import torch
from models.backbones import build_backbone
torch.manual_seed(0)
# with torch's own strided 1x1 convolution each row but the first ends the process
for name, width, batch_size in (
    ("resnet20", 2, 64), ("resnet20", 7, 64), ("resnet20", 8, 64),
    ("resnet20v2", 8, 64), ("resnet18", 8, 32), ("resnet50", 2, 64),
):
    print(name, width, flush=True)
    module = build_backbone(name, width=width, image_size=64).module.to(memory_format=torch.channels_last)
    images = torch.randn(batch_size, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    module(images).square().sum().backward()
"""


@pytest.mark.slow
def test_narrow_backbones_train_without_writing_out_of_bounds() -> None:
    """A strided 1x1 convolution of torch 2.14 corrupts the heap here; glibc's checks end the process then."""
    run("env", "MALLOC_CHECK_=3", "python", "-c", _TRAINING_STEPS, cwd=ROOT)


@pytest.mark.parametrize("name", [*BACKBONES, "timm:convnext_atto", "timm:vit_tiny_patch16_224"])
def test_the_layout_of_the_pixels_changes_no_feature(name: str) -> None:
    torch.manual_seed(0)
    width = None if published_width(name) is None else 8
    module = build_backbone(name, width=width, image_size=32).module.eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = module(images)
        module.to(memory_format=torch.channels_last)
        actual = module(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
