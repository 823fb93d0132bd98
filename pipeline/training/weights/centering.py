"""The mean direction of a backbone's features: what all images have in common hides what tells them apart."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.evaluation.knn import normalize
from pipeline.training.monitoring.monitor import extract_features
from pipeline.training.pixels import Images

_FEWEST = 100  # images whose mean is worth taking off: of fewer it is mostly themselves
_LEAST = 1e-4  # mean square of what is left of a feature of length 1; below, rounding is most of it
_SAMPLE = 1000


def mean_direction(
    backbone: nn.Module, images: Images, rows: NDArray[np.int64], mean: Tensor, std: Tensor
) -> Tensor | None:
    """The mean of the normalised features of (at most 1,000 of) the images.

    Features behind a rectifier are never negative, so all of them point much the same way: without their
    mean the ImageNet features of scenes had a mean average precision of 60.6 % in place of 56.5
    (docs/decisions.md).

    Args:
        backbone: on the device of mean and std.
        images: the collection.
        rows: of images, in a random order.
        mean: of the pixels, [3, 1, 1].
        std: likewise.

    Returns:
        float32 [D], on the CPU; None where it is better left: of few images, or of features so alike that
        nothing but rounding stays without it.
    """
    if len(rows) < _FEWEST:
        return None
    features = normalize(extract_features(backbone, images, rows[:_SAMPLE], mean, std))
    center = features.mean(axis=0, dtype=np.float64)
    if ((features - center) ** 2).sum(axis=1).mean() < _LEAST:
        return None
    return torch.from_numpy(center.astype(np.float32))
