"""The networks that are kept: an image becomes a feature vector."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from models import efficientnet_lite0
from models.conv4 import Conv4
from models.published_weights import EFFICIENTNET_LITE0, PREFIX
from models.resnet import FEATURES, STEMS, ResNet
from models.resnet_blocks import BasicBlock, Bottleneck
from models.resnet_cifar import ResNetCifar, ResNetCifarV2
from models.timm_backbone import build_timm, pixel_statistics
from models.weights import Rgb, load_into, read_statistics, read_weights

# Images up to this side get the small stem: that of Tiny ImageNet. At 96 px (STL-10) the published stem
# leaves 3 x 3 pixels to the last stage.
SMALL_STEM_UP_TO = 64


@dataclass(frozen=True)
class Backbone:
    """A network and what its user must know of it.

    Args:
        module: float [B, 3, H, W], normalised, to features [B, D].
        feature_dim: D.
        mean: of the three channels, on the scale from 0 to 1, that its weights were trained with; None
            where they are random, or their file does not tell.
        std: likewise.
    """

    module: nn.Module
    feature_dim: int
    mean: Rgb | None = None
    std: Rgb | None = None


SmallNetwork = Conv4 | ResNetCifar | ResNetCifarV2
# Name: the published width, and the network of some width for images of some size.
SMALL_NETWORKS: dict[str, tuple[int, Callable[[int, int], SmallNetwork]]] = {
    "resnet20": (16, lambda width, _size: ResNetCifar(3, width)),
    "resnet20v2": (16, lambda width, _size: ResNetCifarV2(3, width)),
    "conv4": (128, Conv4),
}
RESNET_WIDTH = 64  # as published
# Name: the block, and how many each stage has.
RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet10": (BasicBlock, (1, 1, 1, 1)),
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}
BACKBONES = (*SMALL_NETWORKS, *RESNETS, EFFICIENTNET_LITE0)


def build_backbone(
    name: str,
    *,
    width: int | None,
    image_size: int,
    stem: str = "auto",
    features: str = "last",
    weights: Path | None = None,
) -> Backbone:
    """A backbone, freshly initialised or with the weights of a file.

    Args:
        name: one of `BACKBONES`, or `timm:NAME` for any model of timm.
        width: channels of the first stage; None for the published number. timm's models take none.
        image_size: side of the square images in pixels. `conv4` and timm's models with a fixed input size
            take no other; the ResNets take any, their `auto` stem alone follows it.
        stem: of ResNet-10 to -50: one of `models.resnet.STEMS`, or `auto`, which is `small` up to
            `SMALL_STEM_UP_TO` pixels and `imagenet` above.
        features: of ResNet-10 to -50: one of `models.resnet.FEATURES`; the others have their last alone.
        weights: a file of them; `models.published_weights` knows of some.

    Raises:
        OSError: the file of weights cannot be read.
        ValueError: there is no backbone of that name, it has no such width, stem, features or image size, or
            the weights are not its own.
    """
    _check(name, width, stem, features)
    if _is_of_timm(name):
        return _timm_backbone(name, image_size, weights)
    width = published_width(name) if width is None else width
    assert width is not None
    module: ResNet | SmallNetwork
    if name in RESNETS:
        if stem == "auto":
            stem = "small" if image_size <= SMALL_STEM_UP_TO else "imagenet"
        module = ResNet(*RESNETS[name], width, stem, features)
    else:
        module = SMALL_NETWORKS[name][1](width, image_size)
    if weights is None:
        return Backbone(module, module.feature_dim)
    load_into(module, read_weights(weights), weights)
    return Backbone(module, module.feature_dim, *(read_statistics(weights) or (None, None)))


def _check(name: str, width: int | None, stem: str, features: str) -> None:
    if stem not in ("auto", *STEMS):
        raise ValueError(f"stem {stem!r} is none of auto, {', '.join(STEMS)}")
    if features not in FEATURES:
        raise ValueError(f"features {features!r} is none of {', '.join(FEATURES)}")
    if name not in BACKBONES and not name.startswith(PREFIX):
        raise ValueError(f"backbone {name!r} is none of {', '.join(BACKBONES)}, timm:NAME{_nearest(name)}")
    if name not in RESNETS and stem != "auto":
        raise ValueError(f"backbone {name!r} has one stem: leave stem at auto, not {stem}")
    if name not in RESNETS and features != "last":
        raise ValueError(f"backbone {name!r} has no features {features}: leave features at last")
    if _is_of_timm(name) and width is not None:
        raise ValueError(f"backbone {name!r} has a width of its own: leave width empty, not {width}")


def published_width(name: str) -> int | None:
    """Channels of the first stage; None for those that have a width of their own."""
    if name in RESNETS:
        return RESNET_WIDTH
    return SMALL_NETWORKS[name][0] if name in SMALL_NETWORKS else None


def _is_of_timm(name: str) -> bool:
    """Whether timm builds it."""
    return name == EFFICIENTNET_LITE0 or name.startswith(PREFIX)


def _timm_backbone(name: str, image_size: int, weights: Path | None) -> Backbone:
    timm_name = name.removeprefix(PREFIX)
    if weights is None:
        return Backbone(*build_timm(timm_name, image_size))
    tensors = read_weights(weights)
    if name == EFFICIENTNET_LITE0:
        module, feature_dim = build_timm(timm_name, image_size)
        packaged = efficientnet_lite0.named_as_timm(tensors, module)
        if packaged is not None:
            load_into(module, packaged, weights)
            return Backbone(module, feature_dim, efficientnet_lite0.MEAN, efficientnet_lite0.STD)
    module, feature_dim = build_timm(timm_name, image_size, tensors, weights)
    return Backbone(module, feature_dim, *(read_statistics(weights) or pixel_statistics(module)))


def _nearest(name: str) -> str:
    """`, did you mean ...?`; a bare name that timm knows is one without its prefix."""
    import timm

    near = [PREFIX + name] if timm.is_model(name) else difflib.get_close_matches(name, BACKBONES)
    return f"; did you mean {', '.join(near)}?" if near else ""
