"""SimSiam: predict one view's projection from the other's, with neither negatives nor a second network.

Source: Chen and He 2020, Exploring Simple Siamese Representation Learning, arXiv:2011.10566.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.across_ranks import all_gather, gather
from models.heads import prediction_mlp, projection_mlp
from models.objective import Objective, Step, check_two_views, view_metrics

# B batch, b this process's part of it, D feature


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Minus the cosine of predictions and their targets; no gradient reaches the targets.

    Args:
        p: predictions from one view, [B, D], any norm.
        z: projections of the other view; row i is what row i of `p` should be.

    Returns:
        Scalar in [-1, 1], the mean over the batch.

    Raises:
        ValueError: the shapes differ.

    Source: Chen and He 2020, arXiv:2011.10566, eqs. 1 and 3.
    """
    if p.shape != z.shape or p.dim() != 2:
        raise ValueError(
            f"predictions and targets must have one shape [B, D], got {list(p.shape)}, {list(z.shape)}"
        )
    # without stop-gradient both branches collapse to a constant (sec. 4.1)
    return -F.cosine_similarity(p, z.detach(), dim=1).mean()


class SimSiam(Objective):
    """A backbone, a projection head and a predictor between the two views.

    Args:
        backbone: float [B, 3, H, W] -> [B, feature_dim].
        feature_dim: what the backbone gives.
        hidden_dim: width of the projection head.
        output_dim: dimension of the projections.
        num_layers: of the projection head; the paper has 3, and 2 on CIFAR-10 (appendix D).
        predictor_dim: the predictor's hidden width; the paper has a bottleneck of output_dim / 4.
        predictor_lr_factor: the predictor's learning rate is constant, so many times the peak; None: it
            follows the schedule. The paper has 1 (sec. 4.2): the predictor should follow the latest
            representations. More lets it do so in short runs (docs/decisions.md).
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
        predictor_lr_factor: float | None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = projection_mlp(feature_dim, hidden_dim, output_dim, num_layers, output_affine=False)
        self.predictor = prediction_mlp(output_dim, predictor_dim)
        self.has_constant_lr = predictor_lr_factor is not None
        self.constant_lr_factor = predictor_lr_factor or 1.0

    def forward(self, views: Sequence[Tensor], labels: Tensor) -> Step:
        """As `Objective` says; the loss is in [-1, 1], the metrics are `view_metrics` of the projections."""
        check_two_views(views, "simsiam")
        # a pass for each view: the paper's batch statistics, like its code's, are of one view (Algorithm 1)
        features0, features1 = (self.backbone(view) for view in views)  # [b, feature_dim]
        z0, z1 = self.projection(features0), self.projection(features1)  # [b, D]
        p0, p1 = self.predictor(z0), self.predictor(z1)  # [b, D]
        # in float32: near 1, where cosines end up, the steps of bfloat16 are 0.004
        with torch.autocast(z0.device.type, enabled=False):
            z0, z1, p0, p1 = (gather(vectors.float()) for vectors in (z0, z1, p0, p1))  # [B, D]
            loss = negative_cosine(p0, z1) / 2 + negative_cosine(p1, z0) / 2
            return Step(loss, view_metrics(z0, z1), all_gather(features0.detach().float()))

    def constant_lr_parameters(self) -> list[nn.Parameter]:
        """The predictor's, if asked for."""
        return list(self.predictor.parameters()) if self.has_constant_lr else []
