"""What of a start stays as it is, and how fast the rest learns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from models.backbones import build_backbone
from models.frozen import freeze, stages_of
from pipeline.errors import UserError
from pipeline.params.pretrain import Pretrain
from pipeline.training.loop import train
from tests.tiny_run import LABELS, changed_run


@pytest.fixture
def start(tiny: Pretrain, tmp_path: Path) -> Pretrain:
    """The tiny run from a file of weights, whose norms have seen something."""
    torch.manual_seed(7)
    module = build_backbone("resnet20", width=4, image_size=16).module
    for _ in range(3):
        module(2 + torch.randn(8, 3, 16, 16))
    save_file(module.state_dict(), tmp_path / "start.safetensors")
    return changed_run(tiny, **{"backbone.weights": str(tmp_path / "start.safetensors")})


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        # the stem's convolution and norm; 2 convolutions with 2 norms a block; a projection in stages 2 to 4
        ("resnet18", [3, 12, 15, 15, 15]),
        ("resnet20", [3, 18, 21, 21]),
        ("resnet20v2", [1, 18, 19, 19, 2]),
        ("conv4", [2, 2, 2, 2, 2]),
        ("efficientnet_lite0", [3, 6, 18, 18, 27, 27, 36, 12]),
        ("timm:test_vit", [4, 12, 12, 12, 12, 12, 14]),
    ],
)
def test_the_stages_of_a_network_are_all_of_it_from_its_input_on(name: str, counts: list[int]) -> None:
    module = build_backbone(name, width=None, image_size=32).module
    stages = stages_of(module)
    assert [len(stage.parameters) for stage in stages] == counts
    found = [id(parameter) for stage in stages for parameter in stage.parameters]
    assert sorted(found) == sorted(map(id, module.parameters()))
    norms = [each for stage in stages for each in stage.modules if isinstance(each, nn.BatchNorm2d)]
    assert set(map(id, norms)) == {id(each) for each in module.modules() if isinstance(each, nn.BatchNorm2d)}


def test_frozen_stages_stay_and_the_others_learn(start: Pretrain, images: NDArray[np.uint8]) -> None:
    run = train(images, LABELS, changed_run(start, **{"backbone.freeze": 2}))
    for name, weight in run.backbone.items():
        is_frozen = name.startswith(("stem.", "blocks.0.", "blocks.1.", "blocks.2."))
        assert torch.equal(weight, run.start[name]) is is_frozen, name


def test_frozen_norms_stay_and_all_else_learns(start: Pretrain, images: NDArray[np.uint8]) -> None:
    run = train(images, LABELS, changed_run(start, **{"backbone.batch_norm": "frozen"}))
    for name, weight in run.backbone.items():
        assert torch.equal(weight, run.start[name]) is (weight.ndim != 4), name


def test_a_frozen_norm_uses_the_statistics_that_it_has() -> None:
    module = build_backbone("resnet20", width=4, image_size=16).module
    pixels = 3 + torch.randn(8, 3, 16, 16)
    expected = module.eval()(pixels)
    module.train()
    assert not torch.allclose(module(pixels), expected, atol=1e-3)
    module = build_backbone("resnet20", width=4, image_size=16).module
    expected = module.eval()(pixels)
    module.train()
    freeze(module, 0, batch_norms=True)
    torch.testing.assert_close(module(pixels), expected)


def test_the_head_learns_alone_as_long_as_it_is_told_to(start: Pretrain, images: NDArray[np.uint8]) -> None:
    frozen = {"backbone.batch_norm": "frozen"}  # else the norms count what they see
    first = train(images, LABELS, changed_run(start, **frozen, **{"optimizer.head_epochs": 1, "epochs": 2}))
    steps = [row["knn_top1"] for row in first.history]
    assert steps[0] == steps[1]
    assert first.history[1]["loss"] != first.history[0]["loss"]
    assert not torch.equal(first.backbone["stem.0.weight"], first.start["stem.0.weight"])
    message = r"optimizer\.head_epochs \(2\) must be below epochs \(2\)"
    with pytest.raises(ValueError, match=message):
        changed_run(start, **{"optimizer.head_epochs": 2, "epochs": 2})


def test_the_backbones_rate_is_a_share_of_the_heads(start: Pretrain, images: NDArray[np.uint8]) -> None:
    one_step = {"epochs": 1, "batch_size": 54, "optimizer.momentum": 0.0, "optimizer.weight_decay": 0.0}
    moved = []
    for factor in (1.0, 0.25):
        chosen = changed_run(start, **one_step, **{"optimizer.backbone_lr_factor": factor})
        run = train(images, LABELS, changed_run(chosen, precision="float32"))
        moved.append(run.backbone["blocks.4.conv1.weight"] - run.start["blocks.4.conv1.weight"])
    torch.testing.assert_close(moved[1], 0.25 * moved[0], rtol=1e-3, atol=1e-7)


def test_more_stages_than_there_are_is_one_line(start: Pretrain, images: NDArray[np.uint8]) -> None:
    with pytest.raises(UserError, match=r"pretrain\.backbone\.freeze: 4 should be below 4, the stages that"):
        train(images, LABELS, changed_run(start, **{"backbone.freeze": 4}))


@pytest.mark.parametrize("key", [{"backbone.freeze": 1}, {"backbone.batch_norm": "frozen"}])
def test_random_weights_are_not_frozen(tiny: Pretrain, key: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="but the weights are random"):
        changed_run(tiny, **key)
