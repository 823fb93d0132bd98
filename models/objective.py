"""What every method of self-supervision keeps to, so that the training loop never learns its name."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# B batch, D feature


class Objective(Protocol):
    """A module that holds the backbone and turns two views of a batch into what is minimised."""

    backbone: nn.Module

    def __call__(self, view0: Tensor, view1: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Two views, float [B, 3, H, W] each, to a scalar loss and detached scalars to be recorded."""
        ...


@torch.no_grad()
def contrastive_accuracy(z0: Tensor, z1: Tensor) -> dict[str, Tensor]:
    """How often the other view of an image is the nearest, or among the five nearest, of the batch.

    Args:
        z0: projections of the first views, [B, D], any norm.
        z1: projections of the second views; row i pairs with row i of `z0`.

    Returns:
        `top1` and `top5`, scalars in [0, 1]: each of the 2B projections asks among the 2B - 1 others.
    """
    z_2BD = F.normalize(torch.cat([z0, z1]).float(), dim=1)
    similarity = z_2BD @ z_2BD.T
    similarity.fill_diagonal_(-torch.inf)
    pair = torch.arange(len(z_2BD), device=z_2BD.device).roll(len(z0))
    paired = similarity.gather(1, pair[:, None])
    num_nearer = (similarity > paired).sum(dim=1)
    return {"top1": (num_nearer < 1).float().mean(), "top5": (num_nearer < 5).float().mean()}


@torch.no_grad()
def projection_std(z: Tensor) -> Tensor:
    """The standard deviation of the normalised projections, averaged over their dimensions.

    Projections spread over the whole sphere give 1 / sqrt(D); a collapse to one point gives 0.

    Args:
        z: projections, [B, D], any norm.

    Source: Chen and He 2020, arXiv:2011.10566, sec. 4.1.
    """
    return F.normalize(z.float(), dim=1).std(dim=0).mean()
