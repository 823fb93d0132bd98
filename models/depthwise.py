"""How much of a network is depthwise convolutions, which decides the precision that it is fast in."""

from typing import Any

import torch
from torch import Tensor, nn

from models.backbones import RESNETS, SMALL_NETWORKS, build_backbone


def depthwise_share(name: str, image_size: int) -> float:
    """Of all numbers that a backbone's layers give for an image, the share that depthwise convolutions give.

    About 0.3 in inverted residuals, whose widest layer is depthwise (EfficientNet, MobileNet), 0.16 in
    ConvNeXt, 0 in ResNets and ViTs. The network is built without weights, at once and in no memory.

    Args:
        name: of `models.backbones.build_backbone`.
        image_size: side of the images in pixels.
    """
    counted = {True: 0, False: 0}

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        counted[_is_depthwise(module)] += output.numel()

    # timm's may be large, so no memory for them; torch's first step on that device takes more than our own do
    with torch.device("cpu" if name in SMALL_NETWORKS or name in RESNETS else "meta"), torch.no_grad():
        try:
            backbone = build_backbone(name, width=None, image_size=image_size).module.eval()
        except ValueError:  # whoever builds it will say why it cannot be built
            return 0.0
        if not any(_is_depthwise(module) for module in backbone.modules()):
            return 0.0
        for module in backbone.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(count)
        backbone(torch.empty(1, 3, image_size, image_size))
    return counted[True] / sum(counted.values())


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
