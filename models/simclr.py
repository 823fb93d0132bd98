"""SimCLR: of all the views in the batch, find the other view of the same image.

Source: Chen et al. 2020, A Simple Framework for Contrastive Learning, arXiv:2002.05709.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.across_ranks import all_gather, gather
from models.heads import projection_mlp
from models.objective import Objective, Step, view_metrics

# B batch, b this process's part of it, D feature, V views, N = V * B projections
# P = V - 1 positives of an anchor


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
    _check([z0, z1], temperature)
    z_2BD = F.normalize(torch.cat([z0, z1]), dim=1)
    logits_2B2B = z_2BD @ z_2BD.T / temperature
    # a view is no candidate for itself
    logits_2B2B = logits_2B2B.masked_fill(
        torch.eye(len(z_2BD), dtype=torch.bool, device=z_2BD.device), -torch.inf
    )
    pair_2B = torch.arange(len(z_2BD), device=z_2BD.device).roll(len(z0))
    return F.cross_entropy(logits_2B2B, pair_2B)


def multi_view_nt_xent(z: Sequence[Tensor], temperature: float) -> Tensor:
    """NT-Xent of V batches of views, the mean over all ordered pairs of different views of an image.

    Each pair is a classification of its own: the one positive against all views of the other images. The
    image's further views are neither; for two views there are none and this is `nt_xent`.

    Args:
        z: projections of V >= 2 views, each [B, D], any norm; rows i belong to one image.
        temperature: softmax temperature, > 0.

    Returns:
        Scalar in nats, the mean over the V * (V - 1) * B pairs.

    Raises:
        ValueError: as `nt_xent` does, or there is only one view.
    """
    _check(z, temperature)
    num_views, num_images = len(z), len(z[0])
    z_ND = F.normalize(torch.cat(list(z)), dim=1)
    logits_NN = z_ND @ z_ND.T / temperature
    row_N = torch.arange(num_views * num_images, device=z_ND.device)
    image_N = row_N % num_images
    of_one_image_NN = image_N[:, None] == image_N
    negatives_N = logits_NN.masked_fill(of_one_image_NN, -torch.inf).logsumexp(dim=1)
    # the other views of an image stand B, 2B, ... rows further, round the end
    shift_P = num_images * torch.arange(1, num_views, device=z_ND.device)
    positives_NP = logits_NN.gather(1, (row_N[:, None] + shift_P) % len(row_N))
    # -log(e^p / (e^p + e^n)) = log(1 + e^(n - p))
    return F.softplus(negatives_N[:, None] - positives_NP).mean()


def _check(z: Sequence[Tensor], temperature: float) -> None:
    shapes = [list(view.shape) for view in z]
    if len(z) < 2:
        raise ValueError(f"an image needs another view to be found: got {len(z)} views")
    if any(shape != shapes[0] for shape in shapes) or len(shapes[0]) != 2:
        raise ValueError(f"views must have one shape [B, D], got {' and '.join(map(str, shapes))}")
    if len(z[0]) < 2:
        raise ValueError("a batch of one image has no negatives: B must be at least 2")
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}, it must be positive")


class SimCLR(Objective):
    """A backbone, a projection head and NT-Xent between them, of two views or more.

    Args:
        backbone: float [B, 3, H, W] -> [B, feature_dim].
        feature_dim: what the backbone gives.
        hidden_dim: width of the projection head.
        output_dim: dimension of the projections.
        num_layers: of the projection head; the paper has 2.
        temperature: of NT-Xent, > 0.
    """

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        *,
        hidden_dim: int,
        output_dim: int,
        num_layers: int,
        temperature: float,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = projection_mlp(feature_dim, hidden_dim, output_dim, num_layers)
        self.temperature = temperature

    def forward(self, views: Sequence[Tensor], labels: Tensor) -> Step:
        """As `Objective` says; the loss is in nats, the metrics are `view_metrics` of the first two views."""
        # one pass: the batch statistics span all views, as in the paper's global batch norm (sec. 2.2)
        features = self.backbone(torch.cat(list(views)))  # [V * b, feature_dim]
        projections = self.projection(features)  # [V * b, D]
        # in float32: bfloat16 keeps 8 bits, so a logit near 10 would be off by up to 0.03
        with torch.autocast(projections.device.type, enabled=False):
            z = [gather(view) for view in projections.float().chunk(len(views))]  # each [B, D]
            # for two the one cross entropy is the paper's algorithm, and the cheaper
            loss = (
                nt_xent(z[0], z[1], self.temperature)
                if len(z) == 2
                else multi_view_nt_xent(z, self.temperature)
            )
            first = all_gather(features[: len(views[0])].detach().float())
            return Step(loss, view_metrics(z[0], z[1]), first)
