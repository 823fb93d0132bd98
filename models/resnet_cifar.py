"""The ResNets for small images: a 3x3 stem and three stages of width W, 2W, 4W."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.resnet_blocks import BasicBlock, PreActivationBlock, init_convolutions

# B batch, C channels, H height, W width, D feature


class ResNetCifar(nn.Module):
    """The first version, after He et al. 2015, arXiv:1512.03385, sec. 4.2.

    The paper's option A shortcut (padding with zeros) is a projection here, as most later code has it.

    Args:
        blocks_per_stage: 3 for ResNet-20.
        width: channels of the first stage; 16 in the paper.
    """

    def __init__(self, blocks_per_stage: int, width: int) -> None:
        super().__init__()
        self.feature_dim = 4 * width
        self._blocks_per_stage = blocks_per_stage
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.blocks = nn.Sequential(*[BasicBlock(*shape) for shape in _shapes(blocks_per_stage, width)])
        init_convolutions(self)

    def stages_in_order(self) -> list[nn.Module]:
        """The stem, and the three stages."""
        return [self.stem, *_stages(self.blocks, self._blocks_per_stage)]

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.blocks(self.stem(images))  # [B, D, H/4, W/4]
        return features.mean(dim=(2, 3))  # [B, D]


class ResNetCifarV2(nn.Module):
    """The second version, with pre-activation, after He et al. 2016, arXiv:1603.05027.

    Args: as `ResNetCifar`.
    """

    def __init__(self, blocks_per_stage: int, width: int) -> None:
        super().__init__()
        self.feature_dim = 4 * width
        self._blocks_per_stage = blocks_per_stage
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(
            *[
                PreActivationBlock(*shape, first=index == 0)
                for index, shape in enumerate(_shapes(blocks_per_stage, width))
            ]
        )
        # the last block ends in a sum: "an extra activation right after its element-wise addition" (appendix)
        self.norm = nn.BatchNorm2d(self.feature_dim)
        init_convolutions(self)

    def stages_in_order(self) -> list[nn.Module]:
        """The stem, the three stages, and the norm behind them."""
        return [self.stem, *_stages(self.blocks, self._blocks_per_stage), self.norm]

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu_(self.norm(self.blocks(self.stem(images))))  # [B, D, H/4, W/4]
        return features.mean(dim=(2, 3))  # [B, D]


def _stages(blocks: nn.Sequential, blocks_per_stage: int) -> list[nn.Module]:
    return [blocks[first : first + blocks_per_stage] for first in range(0, len(blocks), blocks_per_stage)]


def _shapes(blocks_per_stage: int, width: int) -> list[tuple[int, int, int]]:
    """Input channels, output channels and stride of every block."""
    shapes = []
    in_channels = width
    for channels, first_stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
        for block in range(blocks_per_stage):
            shapes.append((in_channels, channels, first_stride if block == 0 else 1))
            in_channels = channels
    return shapes
