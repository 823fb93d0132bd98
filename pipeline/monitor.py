"""What is watched while the backbone learns: labels only watch here, they never teach."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.artifacts import UNLABELLED
from pipeline.knn import knn_scores, nearest, normalize, topk_accuracy
from pipeline.params import Monitor
from pipeline.pixels import Images
from pipeline.spread import spread

# B batch, D feature, K classes

# The same temperature for every monitored kNN, Wu et al. 2018, arXiv:1805.01978.
_KNN_TEMPERATURE = 0.07
_SPREAD_SAMPLE = 1000  # images; every pair is compared
_BATCH = 256


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

    def learn(self, features: Tensor, labels: Tensor) -> None:
        """One step on the labelled part of a batch: features [B, D], labels [B], -1 where there is none."""
        known = labels != UNLABELLED
        if int(known.sum()) < 2:  # one image has no batch statistics
            return
        with torch.enable_grad():
            logits_BK = self.linear(self.norm(features.detach()[known].float()))
            loss = F.cross_entropy(logits_BK, labels[known])
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


class Watch:
    """Held-out labelled images, and what is measured on them after every epoch.

    Attributes:
        train_rows: all other images, in a seeded random order.
        probe: or nothing, where there are no labels.
    """

    def __init__(
        self,
        images: Images,
        labels: NDArray[np.int64],
        feature_dim: int,
        params: Monitor,
        seed: int,
        device: torch.device,
    ) -> None:
        self.train_rows, self._holdout_rows = hold_out(labels, params, seed)
        self._bank_rows = self.train_rows[labels[self.train_rows] != UNLABELLED][: params.bank_size]
        self._images, self._labels, self._k, self._device = images, labels, params.k, device
        self.probe: OnlineProbe | None = None
        if len(self._bank_rows) and len(self._holdout_rows):
            num_classes = int(labels.max()) + 1
            self.probe = OnlineProbe(feature_dim, num_classes, params.probe_lr).to(device)

    def measure(self, backbone: nn.Module, mean: Tensor, std: Tensor) -> dict[str, float]:
        """kNN and the probe's accuracy on the held-out images, effective rank and uniformity of others.

        Args:
            backbone: float [B, 3, H, W] -> [B, D].
            mean: of the pixels, [3, 1, 1], as in training.
            std: likewise.

        Returns:
            `knn_top1` and `probe_top1` where there are labels, `effective_rank` and `uniformity`.
        """

        def features(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            return extract_features(backbone, self._images, rows, mean, std, self._device)

        if self.probe is None:
            return spread(features(self.train_rows[:_SPREAD_SAMPLE]))
        bank, queries = features(self._bank_rows), features(self._holdout_rows)
        labels = self._labels[self._holdout_rows]
        similarities, neighbors = nearest(normalize(queries), normalize(bank), min(self._k, len(bank)))
        votes = knn_scores(
            similarities,
            self._labels[self._bank_rows][neighbors],
            int(self._labels.max()) + 1,
            _KNN_TEMPERATURE,
        )
        on_device = torch.from_numpy(queries).to(self._device), torch.from_numpy(labels).to(self._device)
        return {
            "knn_top1": topk_accuracy(votes, labels, 1),
            "probe_top1": self.probe.accuracy(*on_device),
        } | spread(bank[:_SPREAD_SAMPLE])


def hold_out(
    labels: NDArray[np.int64], params: Monitor, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on and labelled rows held out for watching, both in a seeded random order.

    Args:
        labels: [N], or -1 where there is none.
        params: of them the share of the labelled that is held out, at least one where there are any.
        seed: of the order.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    is_labelled = labels[order] != UNLABELLED
    num_labelled = int(is_labelled.sum())
    num_held_out = min(num_labelled, max(1, round(num_labelled * params.holdout_fraction)))
    held_out = is_labelled & (np.cumsum(is_labelled) <= num_held_out)
    return order[~held_out], order[held_out]


@torch.no_grad()
def extract_features(
    backbone: nn.Module,
    images: Images,
    rows: NDArray[np.int64],
    mean: Tensor,
    std: Tensor,
    device: torch.device,
    batch_size: int = _BATCH,
) -> NDArray[np.float32]:
    """Features of whole images, in eval mode and float32: [len(rows), D]. The mode is put back."""
    was_training = backbone.training
    backbone.eval()
    features = []
    for batch in np.array_split(rows, math.ceil(len(rows) / batch_size)):
        pixels = torch.from_numpy(images[batch]).to(device).permute(0, 3, 1, 2)
        features.append(backbone((pixels / 255 - mean) / std).float().cpu().numpy())
    backbone.train(was_training)
    return np.concatenate(features)
