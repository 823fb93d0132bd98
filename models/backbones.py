"""The networks that are kept: an image becomes a feature vector."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from models.conv4 import Conv4
from models.resnet import STEMS, ResNet
from models.resnet_blocks import BasicBlock, Bottleneck
from models.resnet_cifar import ResNetCifar, ResNetCifarV2
from models.timm_backbone import PREFIX, build_timm, pixel_statistics

# Images up to this side get the small stem: that of Tiny ImageNet. At 96 px (STL-10) the published stem
# leaves 3 x 3 pixels to the last stage.
SMALL_STEM_UP_TO = 64


@dataclass(frozen=True)
class Backbone:
    """A network and what its user must know of it.

    Args:
        module: float [B, 3, H, W], normalised, to features [B, D].
        feature_dim: D.
        mean: of the three channels, on the scale from 0 to 1, that pretrained weights were trained with;
            None without such weights.
        std: likewise.
    """

    module: nn.Module
    feature_dim: int
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Architecture:
    """A row of `BACKBONES`: how to build it from width, image size and stem (one of `STEMS`)."""

    default_width: int
    build: Callable[[int, int, str], ResNetCifar | ResNetCifarV2 | ResNet | Conv4]
    has_stems: bool = False


BACKBONES: dict[str, Architecture] = {
    "resnet20": Architecture(16, lambda width, _size, _stem: ResNetCifar(3, width)),
    "resnet20v2": Architecture(16, lambda width, _size, _stem: ResNetCifarV2(3, width)),
    "conv4": Architecture(128, lambda width, size, _stem: Conv4(width, size)),
    "resnet10": Architecture(
        64, lambda width, _size, stem: ResNet(BasicBlock, (1, 1, 1, 1), width, stem), has_stems=True
    ),
    "resnet18": Architecture(
        64, lambda width, _size, stem: ResNet(BasicBlock, (2, 2, 2, 2), width, stem), has_stems=True
    ),
    "resnet34": Architecture(
        64, lambda width, _size, stem: ResNet(BasicBlock, (3, 4, 6, 3), width, stem), has_stems=True
    ),
    "resnet50": Architecture(
        64, lambda width, _size, stem: ResNet(Bottleneck, (3, 4, 6, 3), width, stem), has_stems=True
    ),
}


def build_backbone(
    name: str, *, width: int | None, image_size: int, stem: str = "auto", pretrained: bool = False
) -> Backbone:
    """A backbone, freshly initialised or pretrained.

    Args:
        name: one of `BACKBONES`, or `timm:NAME` for any model of timm.
        width: channels of the first stage; None for the published number. timm's models take none.
        image_size: side of the square images in pixels. `conv4` and timm's models with a fixed input size
            take no other; the ResNets take any, their `auto` stem alone follows it.
        stem: of ResNet-10 to -50: one of `models.resnet.STEMS`, or `auto`, which is `small` up to
            `SMALL_STEM_UP_TO` pixels and `imagenet` above.
        pretrained: with timm's weights, for timm's models alone.

    Raises:
        ValueError: there is no backbone of that name, or it has no such width, stem, image size or weights.
        NoPretrainedWeightsError: a ValueError; timm's weights are neither in the cache nor to be fetched.
    """
    if stem not in ("auto", *STEMS):
        raise ValueError(f"stem {stem!r} is none of auto, {', '.join(STEMS)}")
    if name.startswith(PREFIX):
        return _timm_backbone(name, width, image_size, stem, pretrained)
    if name not in BACKBONES:
        raise ValueError(f"backbone {name!r} is none of {', '.join(BACKBONES)}, timm:NAME{_nearest(name)}")
    if pretrained:
        raise ValueError(
            f"backbone {name!r} has no pretrained weights, timm's models alone have: "
            "set pretrained: false, or a name like timm:resnet18"
        )
    architecture = BACKBONES[name]
    if stem != "auto" and not architecture.has_stems:
        raise ValueError(f"backbone {name!r} has one stem: leave stem at auto, not {stem}")
    if stem == "auto":
        stem = "small" if image_size <= SMALL_STEM_UP_TO else "imagenet"
    module = architecture.build(architecture.default_width if width is None else width, image_size, stem)
    return Backbone(module, module.feature_dim)


def _timm_backbone(name: str, width: int | None, image_size: int, stem: str, pretrained: bool) -> Backbone:
    if width is not None:
        raise ValueError(f"backbone {name!r} has a width of its own: leave width empty, not {width}")
    if stem != "auto":
        raise ValueError(f"backbone {name!r} has one stem: leave stem at auto, not {stem}")
    module, feature_dim = build_timm(name.removeprefix(PREFIX), image_size, pretrained)
    if not pretrained:
        return Backbone(module, feature_dim)
    mean, std = pixel_statistics(module)
    return Backbone(module, feature_dim, mean, std)


def _nearest(name: str) -> str:
    """`, did you mean ...?`; a bare name that timm knows is one without its prefix."""
    import timm

    near = [PREFIX + name] if timm.is_model(name) else difflib.get_close_matches(name, BACKBONES)
    return f"; did you mean {', '.join(near)}?" if near else ""
