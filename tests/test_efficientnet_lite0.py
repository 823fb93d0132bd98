"""The pretrained start that needs no network: a package's weights, mapped to timm's network by order."""

import tarfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.backbones import build_backbone
from models.published_weights import published_weights
from models.weights import read_weights
from tests.conftest import ROOT

ARCHIVE = ROOT.parent / "shared" / "data" / "imagenette-128.tar"
# Imagenette's classes among ImageNet's thousand
CLASSES = {
    "tench": 0, "english_springer": 217, "cassette_player": 482, "chain_saw": 491, "church": 497,
    "french_horn": 566, "garbage_truck": 569, "gas_pump": 571, "golf_ball": 574, "parachute": 701,
}  # fmt: skip


def test_the_package_has_as_many_tensors_as_timms_network() -> None:
    path = published_weights("efficientnet_lite0")
    tensors = [name for name in read_weights(path) if not name.endswith("num_batches_tracked")]
    assert len(tensors) == 247
    backbone = build_backbone("efficientnet_lite0", width=None, image_size=224, weights=path)
    assert backbone.feature_dim == 1280
    assert (backbone.mean, backbone.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    random = build_backbone("efficientnet_lite0", width=None, image_size=224)
    assert (random.mean, random.std) == (None, None)


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVE.exists(), reason="Imagenette is not beside the project")
def test_the_mapped_network_names_what_photographs_show() -> None:
    """Ten photographs of each class, of which it chooses among the thousand of ImageNet by its classifier."""
    path = published_weights("efficientnet_lite0")
    module = build_backbone("efficientnet_lite0", width=None, image_size=224, weights=path).module.eval()
    *_, weight, bias = read_weights(path).values()
    assert (weight.shape, bias.shape) == ((1000, 1280), (1000,))
    right, seen = 0, defaultdict(int)
    with tarfile.open(ARCHIVE) as archive, torch.no_grad():
        for member in archive:
            split, name, *_ = (*Path(member.name).parts, "", "")
            if split != "test" or seen[name] == 10 or not member.isfile():
                continue
            seen[name] += 1
            image = Image.open(archive.extractfile(member)).convert("RGB").resize((224, 224), Image.BICUBIC)
            pixels = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None] / 127.5 - 1
            right += int((module(pixels) @ weight.T + bias).argmax()) == CLASSES[name]
    assert dict(seen) == dict.fromkeys(CLASSES, 10)
    # 60 % of 300 such photographs, enlarged from 128 px; 52 % with the mean and std of timm's weights
    assert right >= 50
