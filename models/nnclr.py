"""NNCLR: SimCLR whose positive is the nearest neighbour of a view among the projections of earlier batches.

Source: Dwibedi et al. 2021, With a Little Help from My Friends, arXiv:2104.14548.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.across_ranks import all_gather, gather
from models.heads import prediction_mlp, projection_mlp
from models.objective import Objective, Step, check_two_views, view_metrics

# B batch, b this process's part of it, D feature, Q queue


def info_nce(anchors: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """Cross entropy of finding, for each anchor, its own row among the candidates.

    Args:
        anchors: [B, D], on the sphere; taken as they are.
        candidates: [B, D], on the sphere; row i is the positive of anchor i, the others its negatives.
        temperature: softmax temperature, > 0.

    Returns:
        Scalar in nats, the mean over the anchors.

    Raises:
        ValueError: the shapes differ, B < 2 (no negatives), or the temperature is not positive.

    Source: Dwibedi et al. 2021, arXiv:2104.14548, `L` of Algorithm 1.
    """
    if anchors.shape != candidates.shape or anchors.dim() != 2:
        shapes = f"{list(anchors.shape)} and {list(candidates.shape)}"
        raise ValueError(f"anchors and candidates must have one shape [B, D], got {shapes}")
    if len(anchors) < 2:
        raise ValueError("a batch of one image has no negatives: B must be at least 2")
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}, it must be positive")
    logits_BB = anchors @ candidates.T / temperature
    return F.cross_entropy(logits_BB, torch.arange(len(anchors), device=anchors.device))


def paper_loss(p0: Tensor, p1: Tensor, nn0: Tensor, nn1: Tensor, temperature: float) -> Tensor:
    """The neighbour of each view finds the prediction from the other view.

    Args:
        p0: predictions from the first views, [B, D], on the sphere.
        p1: those from the second views.
        nn0: the neighbours of the first views' projections, [B, D], on the sphere.
        nn1: those of the second views'.
        temperature: softmax temperature, > 0.

    Returns:
        Scalar in nats, the mean over the 2B neighbours. No gradient reaches them.

    Source: Dwibedi et al. 2021, arXiv:2104.14548, Algorithm 1.
    """
    return info_nce(nn0.detach(), p1, temperature) / 2 + info_nce(nn1.detach(), p0, temperature) / 2


def keras_loss(z0: Tensor, z1: Tensor, nn0: Tensor, nn1: Tensor, temperature: float) -> Tensor:
    """The neighbour of each view finds the other view's projection, and is found by it.

    Args:
        z0: projections of the first views, [B, D], on the sphere.
        z1: those of the second views.
        nn0: the neighbours of `z0`, [B, D], on the sphere.
        nn1: the neighbours of `z1`.
        temperature: softmax temperature, > 0.

    Returns:
        Scalar in nats, the mean over the four terms (the example sums over all 4B anchors). Straight-through:
        the gradient at a neighbour goes to the projection that it stands for.

    Source: https://keras.io/examples/vision/nnclr/, `contrastive_loss`.
    """
    through0 = z0 + (nn0 - z0).detach()
    through1 = z1 + (nn1 - z1).detach()
    pairs = [(through0, z1), (z1, through0), (through1, z0), (z0, through1)]
    return torch.stack([info_nce(anchors, found, temperature) for anchors, found in pairs]).mean()


LOSSES = {"paper": paper_loss, "keras": keras_loss}


class SupportSet(nn.Module):
    """The newest Q projections, first in, first out; part of the state_dict, so that a run can resume.

    It starts as random directions of unknown label, drawn from torch's global generator.

    Args:
        size: Q, at least 1.
        dim: of the projections.

    Raises:
        ValueError: there is no room.
    """

    queue: Tensor  # float32 [Q, D], on the sphere
    labels: Tensor  # int64 [Q], -1 where unknown
    pointer: Tensor  # int64 scalar: where the oldest stands, the next to be overwritten

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"queue_size is {size}, it must be at least 1")
        self.register_buffer("queue", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("pointer", torch.tensor(0))

    @torch.no_grad()
    def push(self, z: Tensor, labels: Tensor) -> None:
        """Overwrites the oldest with the rows of z in their order; of more than Q rows the last Q count.

        Args:
            z: projections, [B, D], on the sphere, for any B.
            labels: int64 [B], -1 where unknown.
        """
        z, labels = z[-len(self.queue) :], labels[-len(self.queue) :]
        # the pointer is a tensor all the way: as an int it would make a GPU wait at every step
        slots_B = (self.pointer + torch.arange(len(z), device=z.device)) % len(self.queue)
        self.queue[slots_B] = z.to(self.queue.dtype)
        self.labels[slots_B] = labels
        self.pointer.add_(len(z)).remainder_(len(self.queue))

    @torch.no_grad()
    def nearest(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """For each row of z, [B, D], the queue's row with the largest inner product, and its label.

        Returns:
            Copies: the neighbours [B, D], without gradient, and their labels, int64 [B].
        """
        nearest_B = (z.to(self.queue.dtype) @ self.queue.T).argmax(dim=1)
        return self.queue[nearest_B], self.labels[nearest_B]


class NNCLR(Objective):
    """A backbone, a projection head, a support set and, in the paper, a predictor.

    Args:
        backbone: float [B, 3, H, W] -> [B, feature_dim].
        feature_dim: what the backbone gives.
        hidden_dim: width of the projection head.
        output_dim: dimension of the projections.
        num_layers: of the projection head; the paper has 3.
        predictor_dim: the predictor's hidden width, at least 1; unused by "keras".
        temperature: softmax temperature, > 0; 0.1 in both.
        queue_size: projections in the support set; the paper's best is 98304.
        variant: "paper", Algorithm 1; or "keras", the loss of https://keras.io/examples/vision/nnclr/ (with
            the paper's projection head and the mean over its terms, where the example sums them).

    Raises:
        ValueError: a param is out of its range.
    """

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        *,
        hidden_dim: int,
        output_dim: int,
        num_layers: int,
        predictor_dim: int,
        temperature: float,
        queue_size: int,
        variant: Literal["paper", "keras"],
    ) -> None:
        super().__init__()
        if variant not in LOSSES:
            raise ValueError(f"nnclr variant {variant!r} is none of {', '.join(LOSSES)}")
        if variant == "paper" and predictor_dim < 1:
            raise ValueError(f"predictor_dim is {predictor_dim}, the paper's variant needs at least 1")
        self.backbone = backbone
        self.projection = projection_mlp(feature_dim, hidden_dim, output_dim, num_layers)
        # the Keras example compares projections themselves
        self.predictor = prediction_mlp(output_dim, predictor_dim) if variant == "paper" else nn.Identity()
        self.support_set = SupportSet(queue_size, output_dim)
        self.temperature = temperature
        self.loss = LOSSES[variant]

    def forward(self, views: Sequence[Tensor], labels: Tensor) -> Step:
        """As `Objective` says; the loss is in nats.

        The metrics are `view_metrics` of the projections and `neighbor_same_class`: of the neighbours with a
        known label that answer a view with a known label, the share whose labels agree; NaN if there are
        none, so average it with nanmean. In training mode the support set takes the first views at the end.
        """
        check_two_views(views, "nnclr")
        # a pass for each view: f(x1), f(x2) of Algorithm 1, so that batch statistics are of one view
        features0, features1 = (self.backbone(view) for view in views)  # [b, feature_dim]
        z0, z1 = self.projection(features0), self.projection(features1)  # [b, D]
        p0, p1 = self.predictor(z0), self.predictor(z1)  # [b, D]
        # in float32: bfloat16 keeps 8 bits, so a logit near 10 would be off by up to 0.03
        with torch.autocast(z0.device.type, enabled=False):
            # of all processes, so that each has the same queue
            z0, z1, p0, p1 = (gather(vectors.float()) for vectors in (z0, z1, p0, p1))  # [B, D]
            metrics = view_metrics(z0, z1)
            z0, z1, p0, p1 = (F.normalize(vectors, dim=1) for vectors in (z0, z1, p0, p1))
            nn0, nn0_labels = self.support_set.nearest(z0)
            nn1, nn1_labels = self.support_set.nearest(z1)
            metrics["neighbor_same_class"] = _agreement(labels.repeat(2), torch.cat([nn0_labels, nn1_labels]))
            loss = self.loss(p0, p1, nn0, nn1, self.temperature)
            if self.training:
                # after the loss, or each view would be its own neighbour
                self.support_set.push(z0, labels)
            return Step(loss, metrics, all_gather(features0.detach().float()))

    def check_collection(self, num_images: int) -> None:
        """A queue larger than the collection holds every image, and each would find itself in it."""
        queue_size = len(self.support_set.queue)
        if queue_size > num_images:
            raise ValueError(
                f"queue_size: {queue_size} is more than the {num_images} images to train on: lower it"
            )


def _agreement(labels: Tensor, others: Tensor) -> Tensor:
    known = (labels >= 0) & (others >= 0)
    return ((labels == others) & known).sum() / known.sum()
