"""SimCLR: of all the views in the batch, find the other view of the same image.

Source: Chen et al. 2020, A Simple Framework for Contrastive Learning, arXiv:2002.05709.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.heads import projection_mlp
from models.objective import contrastive_accuracy, projection_std

# B batch, D feature


def nt_xent(z0: Tensor, z1: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy of two batches of views.

    Args:
        z0: projections of the first views, [B, D], any norm.
        z1: projections of the second views; row i pairs with row i of `z0`.
        temperature: softmax temperature, > 0.

    Returns:
        Scalar in nats, the mean over the 2B anchors.

    Raises:
        ValueError: the shapes differ, B < 2 (no negatives), or the temperature is not positive.

    Source: Chen et al. 2020, arXiv:2002.05709, Algorithm 1.
    """
    if z0.shape != z1.shape or z0.dim() != 2:
        raise ValueError(f"two views must have one shape [B, D], got {list(z0.shape)} and {list(z1.shape)}")
    if len(z0) < 2:
        raise ValueError("a batch of one image has no negatives: B must be at least 2")
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}, it must be positive")
    z_2BD = F.normalize(torch.cat([z0, z1]), dim=1)
    logits_2B2B = z_2BD @ z_2BD.T / temperature
    # a view is no candidate for itself
    logits_2B2B = logits_2B2B.masked_fill(
        torch.eye(len(z_2BD), dtype=torch.bool, device=z_2BD.device), -torch.inf
    )
    pair_2B = torch.arange(len(z_2BD), device=z_2BD.device).roll(len(z0))
    return F.cross_entropy(logits_2B2B, pair_2B)


class SimCLR(nn.Module):
    """A backbone, a projection head and NT-Xent between them.

    Args:
        backbone: float [B, 3, H, W] -> [B, feature_dim].
        feature_dim: what the backbone gives.
        hidden_dim: width of the projection head.
        output_dim: dimension of the projections.
        temperature: of NT-Xent, > 0.
    """

    def __init__(
        self, backbone: nn.Module, feature_dim: int, *, hidden_dim: int, output_dim: int, temperature: float
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = projection_mlp(feature_dim, hidden_dim, output_dim)
        self.temperature = temperature

    def forward(self, view0: Tensor, view1: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Two views, float [B, 3, H, W] each, to the loss in nats and top1, top5, projection_std."""
        # one pass: the batch statistics span both views, as in the paper's global batch norm (sec. 2.2)
        z_2BD = self.projection(self.backbone(torch.cat([view0, view1])))
        # in float32: bfloat16 keeps 8 bits, so a logit near 10 would be off by up to 0.03
        with torch.autocast(z_2BD.device.type, enabled=False):
            z0, z1 = z_2BD.float().chunk(2)
            metrics = contrastive_accuracy(z0, z1) | {"projection_std": projection_std(z_2BD)}
            return nt_xent(z0, z1, self.temperature), metrics
