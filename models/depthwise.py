"""How much of a network is depthwise convolutions, which decides the precision that it is fast in."""

from typing import Any

import torch
from torch import Tensor, nn

from models.backbones import build_backbone, is_of_timm


def depthwise_share(name: str, image_size: int) -> float:
    """Of all numbers that a backbone's layers give for an image, the share that depthwise convolutions give.

    About 0.3 in inverted residuals, whose widest layer is depthwise (EfficientNet, MobileNet), 0.16 in
    ConvNeXt, 0 in ResNets and ViTs. The network is built without weights, at once and in no memory.

    Args:
        name: of `models.backbones.build_backbone`.
        image_size: side of the images in pixels.
    """
    if not is_of_timm(name):
        return 0.0
    counted = {True: 0, False: 0}

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        is_depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
        counted[is_depthwise] += output.numel()

    with torch.device("meta"), torch.no_grad():
        backbone = build_backbone(name, width=None, image_size=image_size).module.eval()
        for module in backbone.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(count)
        backbone(torch.empty(1, 3, image_size, image_size))
    return counted[True] / sum(counted.values())
