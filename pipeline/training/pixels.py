"""The collection as training reads it, and the mean and standard deviation that it normalises with."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.backbones import Backbone

# The mean and the deviation of a channel are known to a thousandth from so many 32 px images.
_STATISTICS_SAMPLE = 10_000
_IMAGES_AT_ONCE = 64


class Images(Protocol):
    """uint8 [N, H, W, 3], read by rows: an array, a memory map, or several as one."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class PixelStatistics:
    """Mean and standard deviation of each channel, on the scale from 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# Of ImageNet's training images, as torchvision documents them; and of pixels laid from -1 to 1.
_FIXED_STATISTICS = {
    "imagenet": PixelStatistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": PixelStatistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def choose_statistics(name: str, backbone: Backbone, images: Images, seed: int) -> PixelStatistics:
    """What pixels are normalised with: `auto` is what pretrained weights were, else the collection's own."""
    if name in _FIXED_STATISTICS:
        return _FIXED_STATISTICS[name]
    if name == "auto" and backbone.mean is not None and backbone.std is not None:
        return PixelStatistics(backbone.mean, backbone.std)
    return pixel_statistics(images, seed)


def pixel_statistics(images: Images, seed: int) -> PixelStatistics:
    """Mean and deviation of each channel over (at most 10,000 of) the images, uint8 [N, H, W, 3]."""
    rows = np.arange(len(images))
    if len(images) > _STATISTICS_SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _STATISTICS_SAMPLE, replace=False))
    counts = np.zeros((3, 256), dtype=np.int64)
    for start in range(0, len(rows), _IMAGES_AT_ONCE):
        pixels = images[rows[start : start + _IMAGES_AT_ONCE]]
        for channel in range(3):
            counts[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(axis=1)
    variance = counts @ values**2 / counts.sum(axis=1) - mean**2
    std = np.sqrt(np.maximum(variance, 1 / 255**2))  # one colour all over: divide by one grey level
    red, green, blue = zip(mean.tolist(), std.tolist(), strict=True)
    return PixelStatistics(mean=(red[0], green[0], blue[0]), std=(red[1], green[1], blue[1]))
