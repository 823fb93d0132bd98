"""Backbones: the published shape, counted by hand."""

import pytest
import torch

from models.backbones import build_backbone
from tests.conftest import ROOT, run


def test_resnet20_has_the_published_number_of_weights() -> None:
    backbone, feature_dim = build_backbone("resnet20", 16)
    # He et al. 2015, table 6: 0.27 M with the classifier. By hand: stem, then per stage 6 convolutions and
    # their norms, and the two projections of the shortcuts with theirs.
    stem = 3 * 16 * 9 + 2 * 16
    stage1 = 6 * (16 * 16 * 9 + 2 * 16)
    stage2 = (16 * 32 * 9 + 5 * 32 * 32 * 9 + 6 * 2 * 32) + (16 * 32 + 2 * 32)
    stage3 = (32 * 64 * 9 + 5 * 64 * 64 * 9 + 6 * 2 * 64) + (32 * 64 + 2 * 64)
    assert sum(weight.numel() for weight in backbone.parameters()) == stem + stage1 + stage2 + stage3
    assert feature_dim == 64


@pytest.mark.parametrize(("width", "size"), [(16, 32), (4, 24), (8, 33)])
def test_any_width_and_image_size_gives_the_features_it_promises(width: int, size: int) -> None:
    backbone, feature_dim = build_backbone("resnet20", width)
    assert backbone(torch.rand(2, 3, size, size)).shape == (2, feature_dim)


def test_an_unknown_backbone_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'resnet21' is none of resnet20"):
        build_backbone("resnet21", 16)


_TRAINING_STEPS = """
import torch
from models.backbones import build_backbone
torch.manual_seed(0)
backbone, _ = build_backbone("resnet20", {width})
backbone = backbone.to(memory_format=torch.channels_last)
images = torch.randn(64, 3, 64, 64).contiguous(memory_format=torch.channels_last)
for _ in range(3):
    backbone(images).square().sum().backward()
"""


@pytest.mark.parametrize("width", [2, 7, 8])
def test_a_narrow_backbone_trains_without_writing_out_of_bounds(width: int) -> None:
    """A strided 1x1 convolution of torch 2.14 corrupts the heap here; glibc's checks end the process then."""
    step = _TRAINING_STEPS.format(width=width)
    run("env", "MALLOC_CHECK_=3", "python", "-c", step, cwd=ROOT)
