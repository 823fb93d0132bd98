"""The residual blocks that the ResNets are made of."""

import torch.nn.functional as F
from torch import Tensor, nn

# B batch, C channels, H height, W width
#
# A shortcut that halves the image is a 1x1 convolution with stride 2. It is written here as what it is, every
# second pixel and then a 1x1 convolution: torch's own (oneDNN, channels_last) writes out of bounds in its
# backward pass at widths like 8 and kills the process; the bits are the same.
#
# What follows a norm happens in place: the norm's backward pass needs its input alone, and a large activation
# less to write is memory's time saved.
#
# The last norm of a block starts at one like the others, not at zero (Goyal et al. 2017, arXiv:1706.02677,
# sec. 5.1): what an untrained network sees is part of every comparison here, and zero would leave only its
# shortcuts.


def every(pixels: Tensor, stride: int) -> Tensor:
    """Every `stride`-th pixel in both directions, [B, C, H, W] to [B, C, ceil(H / stride), ...]."""
    return pixels[:, :, ::stride, ::stride]


def init_convolutions(network: nn.Module) -> None:
    """He's initialisation of every convolution, in place (He et al. 2015, arXiv:1502.01852)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The shortcut after `every`: nothing where the shape stays, else a 1x1 convolution and its norm."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2015, arXiv:1512.03385, fig. 5 left)."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.shortcut = _projection(in_channels, channels, stride)

    def forward(self, images: Tensor) -> Tensor:
        residual = F.relu_(self.norm1(self.conv1(images)))
        residual = self.norm2(self.conv2(residual))
        return F.relu_(residual.add_(self.shortcut(every(images, self.stride))))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (arXiv:1512.03385, fig. 5 right), four times as wide out.

    The stride is the 3x3 convolution's, as in torchvision ("v1.5"); in the paper it is the first 1x1's.
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = self.expansion * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.shortcut = _projection(in_channels, out_channels, stride)

    def forward(self, images: Tensor) -> Tensor:
        residual = F.relu_(self.norm1(self.conv1(images)))
        residual = F.relu_(self.norm2(self.conv2(residual)))
        residual = self.norm3(self.conv3(residual))
        return F.relu_(residual.add_(self.shortcut(every(images, self.stride))))


class PreActivationBlock(nn.Module):
    """Norm and ReLU before each of two 3x3 convolutions (He et al. 2016, arXiv:1603.05027, fig. 4e).

    Args:
        in_channels: of the input.
        channels: of the output.
        stride: of the first convolution.
        first: the block follows the stem, whose output has no activation yet: the shortcut takes the
            activated input too (appendix). So does every shortcut with a projection, as in the authors' code,
            where the projection is a 1x1 convolution without a norm.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, first: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.stride = stride
        projects = stride != 1 or in_channels != channels
        self.shortcut: nn.Module = (
            nn.Conv2d(in_channels, channels, 1, bias=False) if projects else nn.Identity()
        )
        self.shortcut_is_activated = first or projects

    def forward(self, images: Tensor) -> Tensor:
        activated = F.relu_(self.norm1(images))
        residual = self.conv2(F.relu_(self.norm2(self.conv1(activated))))
        shortcut = self.shortcut(every(activated if self.shortcut_is_activated else images, self.stride))
        return residual.add_(shortcut)  # type: ignore[no-any-return]  # no activation: the next block's norm comes
