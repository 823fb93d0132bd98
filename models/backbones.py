"""The networks that are kept: an image becomes a feature vector."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

# B batch, C channels, H height, W width, D feature


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2015, arXiv:1512.03385, fig. 5 left)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, images: Tensor) -> Tensor:
        residual = F.relu(self.norm1(self.conv1(images)))
        residual = self.norm2(self.conv2(residual))
        # a 1x1 convolution with stride 2, written as what it is: torch's own (oneDNN, channels_last) writes
        # out of bounds in its backward pass at widths like 8 and kills the process; the bits are the same
        strided = images[:, :, :: self.stride, :: self.stride]
        return F.relu(residual + self.shortcut(strided))


class ResNetCifar(nn.Module):
    """The ResNet for small images: a 3x3 stem, three stages of width W, 2W, 4W (arXiv:1512.03385, sec. 4.2).

    The paper's option A shortcut (padding with zeros) is a projection here, as most later code has it.
    """

    def __init__(self, blocks_per_stage: int, width: int) -> None:
        super().__init__()
        self.feature_dim = 4 * width
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        blocks: list[nn.Module] = []
        in_channels = width
        for out_channels, first_stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
            for block in range(blocks_per_stage):
                blocks.append(BasicBlock(in_channels, out_channels, first_stride if block == 0 else 1))
                in_channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.blocks(self.stem(images))  # [B, D, H/4, W/4]
        return features.mean(dim=(2, 3))  # [B, D]


BACKBONES: dict[str, Callable[[int], ResNetCifar]] = {
    "resnet20": lambda width: ResNetCifar(blocks_per_stage=3, width=width),
}


def build_backbone(name: str, width: int) -> tuple[nn.Module, int]:
    """A freshly initialised backbone and its number of features.

    Args:
        name: one of `BACKBONES`.
        width: channels of the first stage; ResNet-20 is published with 16.

    Returns:
        A module from float [B, 3, H, W], normalised, to features [B, D], and D.

    Raises:
        ValueError: there is no backbone of that name.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone {name!r} is none of {', '.join(BACKBONES)}")
    backbone = BACKBONES[name](width)
    return backbone, backbone.feature_dim
