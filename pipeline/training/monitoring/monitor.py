"""What is watched while the backbone learns: labels only watch here, they never teach."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.backbones import Backbone
from pipeline.artifacts import UNLABELLED
from pipeline.errors import NotFiniteError
from pipeline.evaluation.knn import knn_answers
from pipeline.evaluation.label_free.spread import spread
from pipeline.params.pretrain import Monitor, Pretrain
from pipeline.params.pretrain_views import Views
from pipeline.training.distributed.world import ALONE, World
from pipeline.training.monitoring.online_probe import OnlineProbe, mild_views
from pipeline.training.pixels import Images
from pipeline.training.views import make_views

# B batch, D feature

# The same temperature for every monitored kNN, Wu et al. 2018, arXiv:1805.01978.
_KNN_TEMPERATURE = 0.07
_SPREAD_SAMPLE = 1000  # images; every pair is compared
_BATCH = 256  # images of at most 112 px; as many pixels of larger ones
_BATCH_SIDE = 112
_MOST_HELD_OUT = 10_000  # images; by so many an accuracy is known to half a point
_FEWEST_TO_CHOOSE = 30  # held-out images: by fewer, the best epoch is chosen by chance


@dataclass(frozen=True)
class Measured:
    """What was measured of a backbone.

    Attributes:
        figures: `knn_top1` and `probe_top1` where there are labels, `effective_rank` and `uniformity`.
        hits: whether kNN had each held-out image right, [Q]; None where there are no labels.
    """

    figures: dict[str, float]
    hits: NDArray[np.bool_] | None = None


class Watch:
    """Held-out labelled images, what is measured on them after every epoch, and the probe's lessons.

    Attributes:
        train_rows: all other images, in a seeded random order.
        cannot_choose: why these images cannot say which epoch is best; None where they can.
        probe: or nothing, where there are no labels.
    """

    def __init__(
        self,
        images: Images,
        labels: NDArray[np.int64],
        backbone: Backbone,
        mean: Tensor,
        std: Tensor,
        params: Pretrain,
        world: World = ALONE,
    ) -> None:
        """
        Args:
            images: the collection.
            labels: [N], or -1 where there is none.
            backbone: what is watched; on its device.
            mean: of the pixels, [3, 1, 1], as in training, on that device.
            std: likewise.
            params: of the run.
            world: the processes that train together; each computes its share of the features.
        """
        monitor, self._world = params.monitor, world
        self.train_rows, self._holdout_rows = hold_out(labels, monitor, params.seed)
        self.cannot_choose = why_not_chosen_by(labels[self._holdout_rows])
        self._bank_rows = self.train_rows[labels[self.train_rows] != UNLABELLED][: monitor.bank_size]
        if not len(self._bank_rows):
            self.cannot_choose = self.cannot_choose or "every labelled image is held out"
        self._images, self._labels, self._k = images, labels, monitor.k
        self._lr_key = params.peak_lr[0]
        self._backbone, self._mean, self._std = backbone.module, mean, std
        self.probe: OnlineProbe | None = None
        if len(self._bank_rows) and len(self._holdout_rows):
            num_classes = int(labels.max()) + 1
            self.probe = OnlineProbe(backbone.feature_dim, num_classes, monitor.probe.lr).to(mean.device)
        self._mild_views = mild_views(params.views, monitor.probe) if monitor.probe.views == "mild" else None
        # its own, so that the method draws the same views with it and without
        self.generator = torch.Generator(mean.device).manual_seed(params.seed)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What learns here, by name, for a checkpoint."""
        return {} if self.probe is None else {"probe": self.probe}

    def teach(self, features: Tensor, rows: NDArray[np.int64]) -> None:
        """Gives the probe one batch.

        Args:
            features: of the method's first views, [B, D], in the order of the rows.
            rows: of the images.
        """
        if self.probe is None:
            return
        labels = self._labels[rows]
        if self._mild_views is not None:
            rows = rows[labels != UNLABELLED]
            if len(rows) < 2:  # one image has no batch statistics
                return
            labels, features = self._labels[rows], self._features_of_mild_views(rows, self._mild_views)
        self.probe.learn(features, torch.from_numpy(labels).to(features.device, non_blocking=True))

    @torch.no_grad()
    def _features_of_mild_views(self, rows: NDArray[np.int64], views: Views) -> Tensor:
        """In eval mode: the running statistics of the batch norms are left to the unlabelled learning."""
        share = self._world.share(len(rows))

        def features(own: NDArray[np.int64]) -> Tensor:
            batch = torch.from_numpy(self._images[own]).to(self._mean.device, non_blocking=True)
            (view,) = make_views(batch, views, self.generator, 1, share)
            with eval_mode(self._backbone):
                found: Tensor = self._backbone((view - self._mean) / self._std)
            return found

        return self._world.spread(features, rows)

    def measure(self) -> Measured:
        """kNN and the probe's accuracy on the held-out images, effective rank and uniformity of others.

        Raises:
            NotFiniteError: features are no numbers.
        """

        def features(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            found = self._world.spread(
                lambda own: torch.from_numpy(
                    extract_features(self._backbone, self._images, own, self._mean, self._std)
                ),
                rows,
            ).numpy()
            if not np.isfinite(found).all():
                raise NotFiniteError(
                    f"the features of the backbone are no longer finite: lower {self._lr_key} in params.yaml"
                )
            return found

        if self.probe is None:
            return Measured(spread(features(self.train_rows[:_SPREAD_SAMPLE])))
        bank, queries = features(self._bank_rows), features(self._holdout_rows)
        labels = self._labels[self._holdout_rows]
        answers = knn_answers(
            queries,
            labels,
            bank,
            self._labels[self._bank_rows],
            num_classes=int(self._labels.max()) + 1,
            k=min(self._k, len(bank)),
            temperature=_KNN_TEMPERATURE,
            device=self._mean.device,
        )
        device = self._mean.device
        on_device = torch.from_numpy(queries).to(device), torch.from_numpy(labels).to(device)
        hits = answers.ranks < 1
        figures = {"knn_top1": float(hits.mean()), "probe_top1": self.probe.accuracy(*on_device)}
        return Measured(figures | spread(bank[:_SPREAD_SAMPLE]), hits)


def hold_out(
    labels: NDArray[np.int64], params: Monitor, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on and labelled rows held out for watching, both in a seeded random order.

    Args:
        labels: [N], or -1 where there is none.
        params: of them the share of the labelled that is held out, at least one where there are any, and at
            most 10,000.
        seed: of the order.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    is_labelled = labels[order] != UNLABELLED
    num_labelled = int(is_labelled.sum())
    num_asked = min(_MOST_HELD_OUT, round(num_labelled * params.holdout_fraction))
    num_held_out = min(num_labelled, max(1, num_asked))
    held_out = is_labelled & (np.cumsum(is_labelled) <= num_held_out)
    return order[~held_out], order[held_out]


def why_not_chosen_by(labels: NDArray[np.int64]) -> str | None:
    """Why held-out images of these labels cannot say which epoch is best; None where they can."""
    if not len(labels):
        return "no image has a label"
    if len(labels) < _FEWEST_TO_CHOOSE:
        return f"of {len(labels)} held-out images (fewer than {_FEWEST_TO_CHOOSE}) chance would choose"
    if len(np.unique(labels)) < 2:
        return "the held-out images are all of one class"
    return None


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """The module in eval mode; the mode of each of its parts is put back: frozen norms are in eval mode."""
    was_training = [(each, each.training) for each in module.modules()]
    module.eval()
    yield
    for each, mode in was_training:
        each.training = mode


@torch.no_grad()
def extract_features(
    backbone: nn.Module,
    images: Images,
    rows: NDArray[np.int64],
    mean: Tensor,
    std: Tensor,
    batch_size: int | None = None,
) -> NDArray[np.float32]:
    """Features of whole images, in eval mode and float32, on the device of mean and std: [len(rows), D]."""
    features = []
    side = images[rows[:1]].shape[1]
    at_once = batch_size or max(1, min(_BATCH, _BATCH * _BATCH_SIDE**2 // side**2))
    with eval_mode(backbone):
        for batch in np.array_split(rows, math.ceil(len(rows) / at_once)):
            pixels = torch.from_numpy(images[batch]).to(mean.device).permute(0, 3, 1, 2)
            features.append(backbone((pixels / 255 - mean) / std).float().cpu().numpy())
    return np.concatenate(features)
