"""What every method of self-supervision keeps to, so that the training loop never learns its name.

And the monitors that the methods share: they feed metrics, never a loss. Call them outside autocast.

Several processes may train one network, each with a share of every batch: what a method compares it gathers
first (`models.across_ranks`), and compares without weights of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# B batch, b the part of it that this process has, all of it where there is one process
# C channels, H height, W width, D feature


class Step(NamedTuple):
    """What an objective makes of one batch.

    Attributes:
        loss: float32 scalar with gradient.
        metrics: detached scalars, the same names at every step; NaN where the batch says nothing.
        features: the backbone's features of the first view, float32 [B, D], detached, for an online probe.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    features: Tensor


class Objective(nn.Module, ABC):
    """Holds the backbone and turns views of a batch into what is minimised."""

    backbone: nn.Module
    constant_lr_factor: float = 1.0

    @abstractmethod
    def forward(self, views: Sequence[Tensor], labels: Tensor) -> Step:
        """One step forward.

        Args:
            views: of the same b images in the same order, each float [b, 3, H, W].
            labels: int64 [B], -1 where unknown; they feed metrics, never the loss.

        Returns:
            That of the whole batch, the same in every process.

        Raises:
            ValueError: the method has no loss for so many views.
        """

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What learns, by how fast: the `backbone`, the `head`, and what has a `constant` learning rate."""
        part_of = {id(weight): "backbone" for weight in self.backbone.parameters()}
        part_of |= {id(weight): "constant" for weight in self.constant_lr_parameters()}
        parts: dict[str, list[nn.Parameter]] = {"backbone": [], "head": [], "constant": []}
        for weight in self.parameters():
            if weight.requires_grad:  # not what is frozen (models/frozen.py)
                parts[part_of.get(id(weight), "head")].append(weight)
        return parts

    def constant_lr_parameters(self) -> list[nn.Parameter]:
        """Those whose learning rate stays `constant_lr_factor` times the peak; none for most methods."""
        return []

    def check_collection(self, num_images: int) -> None:
        """Raises ValueError where the method makes no sense with so few images to train on."""


def check_two_views(views: Sequence[Tensor], method: str) -> None:
    """Raises ValueError unless there are two views, for the methods whose papers define no others."""
    if len(views) != 2:
        raise ValueError(f"{method} compares two views, got {len(views)}: set num_views to 2")


def view_metrics(z0: Tensor, z1: Tensor) -> dict[str, Tensor]:
    """The monitors of two views that every method records.

    Args:
        z0: projections of the first views, [B, D], any norm.
        z1: projections of the second views; row i pairs with row i of `z0`.

    Returns:
        Detached float32 scalars top1, top5, correlation_accuracy, alignment and projection_std (of both
        views' projections together).
    """
    return contrastive_accuracy(z0, z1) | {
        "correlation_accuracy": correlation_accuracy(z0, z1),
        "alignment": alignment(z0, z1),
        "projection_std": projection_std(torch.cat([z0, z1])),
    }


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
def correlation_accuracy(z0: Tensor, z1: Tensor) -> Tensor:
    """How often a dimension of one view correlates most with the same dimension of the other.

    High where the dimensions carry different things and both views agree on them; 1 / D by chance and for
    a collapse.

    Args:
        z0: projections of the first views, [B, D], any norm; the cost is one D x D product over B.
        z1: projections of the second views; row i pairs with row i of `z0`.

    Returns:
        Scalar in [0, 1]: of the D rows and D columns of the cross-correlation, the share whose largest
        entry (the first of equal ones) is on the diagonal.

    Source: the NNCLR example of Keras, https://keras.io/examples/vision/nnclr/, which looks at features.
    """
    correlation_DD = _standardised(z0.float()).T @ _standardised(z1.float()) / len(z0)
    diagonal_D = torch.arange(z0.shape[1], device=z0.device)
    hits_2D = torch.cat(
        [correlation_DD.argmax(dim=1) == diagonal_D, correlation_DD.argmax(dim=0) == diagonal_D]
    )
    return hits_2D.float().mean()


def _standardised(z_BD: Tensor) -> Tensor:
    centred = z_BD - z_BD.mean(dim=0)
    # a dimension that is constant up to rounding correlates with nothing, instead of dividing 0 by 0
    return centred / centred.square().mean(dim=0).sqrt().clamp_min(1e-6)


@torch.no_grad()
def alignment(z0: Tensor, z1: Tensor) -> Tensor:
    """The mean squared distance of the two views of an image on the sphere, in [0, 4]; lower is closer.

    Args:
        z0: projections of the first views, [B, D], any norm.
        z1: projections of the second views; row i pairs with row i of `z0`.

    Source: Wang and Isola 2020, arXiv:2005.10242, sec. 4.1, alpha = 2.
    """
    apart_BD = F.normalize(z0.float(), dim=1) - F.normalize(z1.float(), dim=1)
    return apart_BD.square().sum(dim=1).mean()


@torch.no_grad()
def projection_std(z: Tensor) -> Tensor:
    """The standard deviation of the normalised projections, averaged over their dimensions.

    Projections spread over the whole sphere give 1 / sqrt(D); a collapse to one point gives 0.

    Args:
        z: projections, [B, D], any norm.

    Source: Chen and He 2020, arXiv:2011.10566, sec. 4.1.
    """
    return F.normalize(z.float(), dim=1).std(dim=0).mean()
