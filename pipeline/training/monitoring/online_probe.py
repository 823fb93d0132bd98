"""A linear probe that learns beside the encoder, at each step, and teaches it nothing."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.artifacts import UNLABELLED
from pipeline.params.pretrain import Probe
from pipeline.params.pretrain_views import Views

# B batch, D feature, K classes


class OnlineProbe(nn.Module):
    """A linear classifier of the features as they are at each step; no gradient reaches the backbone.

    Args:
        feature_dim: D.
        num_classes: K.
        lr: of its own Adam.
    """

    def __init__(self, feature_dim: int, num_classes: int, lr: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(feature_dim, affine=False)
        self.linear = nn.Linear(feature_dim, num_classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self._optimizer = torch.optim.Adam(self.linear.parameters(), lr=lr)

    def get_extra_state(self) -> dict[str, Any]:
        """Its optimiser's, so that the state_dict is all that it learns on from."""
        return self._optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes back what `get_extra_state` gave."""
        self._optimizer.load_state_dict(state)

    def learn(self, features: Tensor, labels: Tensor) -> None:
        """One step on the labelled part of a batch: features [B, D], labels [B], -1 where there is none."""
        with torch.enable_grad():
            logits_BK = self.linear(self.norm(features.detach().float()))
            # the mean over the labelled, or 0 where there are none, without asking the device how many
            total = F.cross_entropy(logits_BK, labels, ignore_index=UNLABELLED, reduction="sum")
            loss = total / (labels != UNLABELLED).sum().clamp(min=1)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()

    @torch.no_grad()
    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Top-1 on features [B, D] with labels [B]."""
        self.eval()
        right = self.linear(self.norm(features)).argmax(dim=1) == labels
        self.train()
        return float(right.float().mean())


def mild_views(views: Views, params: Probe) -> Views:
    """The method's views with their flips, a larger crop and a jitter of the brightness alone."""
    values = views.model_dump()
    values["crop"] |= {"p": 1.0, "scale": {"low": params.min_area, "high": 1.0}}
    values["color_jitter"] = {"p": 1.0, "brightness": params.brightness} | dict.fromkeys(
        ("contrast", "saturation", "hue"), 0.0
    )
    for operation in ("affine", "grayscale", "blur", "solarize"):
        values[operation]["p"] = 0.0
    return Views.model_validate(values)
