"""ResNet-10 to -50, with the published stem or one for small images."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.resnet_blocks import BasicBlock, Bottleneck, init_convolutions

# B batch, C channels, H height, W width, D feature


class ResNet(nn.Module):
    """Four stages of width W, 2W, 4W, 8W (He et al. 2015, arXiv:1512.03385, table 1).

    Args:
        block: `BasicBlock` or `Bottleneck`; a bottleneck's output is four times as wide as its stage.
        blocks_per_stage: how many blocks each of the four stages has.
        width: channels of the first stage; 64 in the paper.
        stem: one of `STEMS`: `imagenet` is the published 7x7 convolution with stride 2 and a max pool, which
            leave a small image a quarter of its side; `small` one 3x3 convolution with stride 1 (Chen et al.
            2020, arXiv:2002.05709, B.9); `patch` one 4x4 with stride 2, a quarter of the work of `small` in
            all that follows.
        features: one of `FEATURES`: `last` are the last stage's, averaged over the image, as published;
            `stages` those of all four side by side; `quadrants` likewise, each averaged over the four
            quadrants of the image apart. A linear probe finds more in them (docs/decisions.md).
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks_per_stage: tuple[int, int, int, int],
        width: int,
        stem: str,
        features: str,
    ) -> None:
        super().__init__()
        self.stem = STEMS[stem](width)
        blocks: list[nn.Module] = []
        stage_ends = []
        in_channels = width
        for stage, num_blocks in enumerate(blocks_per_stage):
            for index in range(num_blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(in_channels, width * 2**stage, stride))
                in_channels = width * 2**stage * block.expansion
            stage_ends.append((len(blocks) - 1, in_channels))
        self._stage_ends = [last + 1 for last, _ in stage_ends]
        kept = stage_ends[-1:] if features == "last" else stage_ends
        self.kept_blocks = [index for index, _ in kept]
        self.pool = quadrant_means if features == "quadrants" else mean
        self.feature_dim = sum(channels for _, channels in kept) * (4 if features == "quadrants" else 1)
        self.blocks = nn.Sequential(*blocks)
        init_convolutions(self)

    def stages_in_order(self) -> list[nn.Module]:
        """The stem, and the four stages."""
        starts = [0, *self._stage_ends]
        return [self.stem, *(self.blocks[first:end] for first, end in pairwise(starts))]

    def forward(self, images: Tensor) -> Tensor:
        # in the end [B, C, H/32, W/32]; H/8 and W/8 after the small stem, H/16 and W/16 after the patch stem
        hidden = self.stem(images)
        kept = []
        for index, block in enumerate(self.blocks):
            hidden = block(hidden)
            if index in self.kept_blocks:
                kept.append(self.pool(hidden))  # [B, C] or [B, 4C]
        return torch.cat(kept, dim=1)  # [B, D]


def mean(hidden: Tensor) -> Tensor:
    """Over the image: [B, C, H, W] -> [B, C]."""
    return hidden.mean(dim=(2, 3))


def quadrant_means(hidden: Tensor) -> Tensor:
    """Over each quadrant: [B, C, H, W] -> [B, 4C]; the middle row or column of an odd side is in both halves.

    As `adaptive_avg_pool2d`, whose backward pass on CUDA sums in no fixed order.
    """
    height, width = hidden.shape[2:]
    halves = (hidden[:, :, : (height + 1) // 2], hidden[:, :, height // 2 :])
    quadrants = [
        mean(part) for half in halves for part in (half[..., : (width + 1) // 2], half[..., width // 2 :])
    ]
    return torch.stack(quadrants, dim=2).flatten(1)


def _imagenet_stem(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    )


def _small_stem(width: int) -> nn.Sequential:
    convolution = nn.Conv2d(3, width, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def _patch_stem(width: int) -> nn.Sequential:
    convolution = nn.Conv2d(3, width, 4, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


FEATURES = ("last", "stages", "quadrants")
STEMS: dict[str, Callable[[int], nn.Module]] = {
    "small": _small_stem,
    "patch": _patch_stem,
    "imagenet": _imagenet_stem,
}
