"""What learns from labels: the backbone under a classifier of its embeddings, on a device."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.classifier import CosineClassifier, class_sums
from models.frozen import freeze
from models.weights import CENTER, weights_on_cpu
from pipeline.params.finetune import Finetune
from pipeline.params.pretrain import Optimizer
from pipeline.training.finetuning.light_views import light_views
from pipeline.training.hardware.machine import choose_device, keep_freed_memory, make_deterministic
from pipeline.training.hardware.precision import choose_precision
from pipeline.training.optimizers import build_optimizer, learning_rate, set_learning_rate
from pipeline.training.pixels import Images
from pipeline.training.views import make_views
from pipeline.training.weights.centering import mean_direction

# B batch, D feature, K classes

_AT_ONCE = 64  # images whose embeddings the first means are of


@dataclass(frozen=True)
class Start:
    """What is fine-tuned: an encoder as `pipeline.encoder.export.PixelEncoder` holds it.

    Attributes:
        backbone: float [B, 3, H, W], normalised, to features [B, D].
        mean: of the three channels, [3], on the scale from 0 to 1.
        std: likewise.
        center: whether the mean of the features is taken off, in the end. It is not while they learn: the
            mean of the start is soon another, and what is left of features that are much alike is small.
        depthwise: share of the network, `models.depthwise.depthwise_share`.
    """

    backbone: nn.Module
    mean: Tensor
    std: Tensor
    center: bool
    depthwise: float


class Tuner:
    """A backbone, a classifier and their optimiser; the process is made repeatable by the params' seed.

    Args:
        start: its backbone is changed in place.
        images: uint8 [N, H, W, 3]; those of `rows` are learned from, others only give the mean.
        rows: of the images that are learned from.
        labels: of those, from 0 to K - 1, every class among them.
        params: of the run.
        num_steps: of the run, and of its warm-up.

    Attributes:
        device: that all of it is on.
        precision: of the forward pass.

    Raises:
        MachineError: there is no such device.
    """

    def __init__(
        self,
        start: Start,
        images: Images,
        rows: NDArray[np.int64],
        labels: NDArray[np.int64],
        params: Finetune,
        num_steps: tuple[int, int],
    ) -> None:
        self.device = device = choose_device(params.device, "finetune.device")
        chosen = choose_precision(params.precision, device, depthwise=start.depthwise)
        # float16 would need a scaler of its gradients, which minutes of training are not worth
        self.precision = "float32" if chosen == "float16" else chosen
        make_deterministic(params.seed)
        keep_freed_memory()
        self._params, (self._num_steps, self._num_warmup) = params, num_steps
        self._images, self._centers = images, start.center
        self._backbone = start.backbone.to(device).to(memory_format=torch.channels_last)
        self._mean, self._std = (each.view(3, 1, 1).to(device) for each in (start.mean, start.std))
        size = images[rows[:1]].shape[1]
        self._views = light_views(params.views, size)
        self._generator = torch.Generator(device).manual_seed(params.seed)
        sums = self._class_sums(images, rows, labels)
        self._classifier = CosineClassifier(sums, params.temperature).to(device)
        self._backbone.train()
        if params.batch_norm == "frozen":
            freeze(self._backbone, 0, batch_norms=True)
        self._schedule = _schedule(params)
        learns = [weight for weight in self._backbone.parameters() if weight.requires_grad]
        parts = {"backbone": learns, "head": list(self._classifier.parameters())}
        self._optimizer = build_optimizer(parts, self._schedule)

    def step(self, batch: Tensor, labels: Tensor, number: int) -> dict[str, Tensor]:
        """Learns from a batch, and gives its `loss` and `top1`, left on the device.

        Args:
            batch: uint8 [B, H, W, 3] on the device.
            labels: [B], likewise.
            number: of the step, from 0.
        """
        (view,) = make_views(batch, self._views, self._generator, num_views=1)
        logits = self._classifier(self._embeddings(view))
        loss = F.cross_entropy(logits, labels, label_smoothing=self._params.label_smoothing)
        lr = self.learning_rate(number)
        set_learning_rate(self._optimizer, {"backbone": lr * self._params.backbone_lr_factor, "head": lr})
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return {"loss": loss.detach(), "top1": (logits.argmax(dim=1) == labels).float().mean()}

    def learning_rate(self, number: int) -> float:
        """Of the classifier, in step `number`, from 0."""
        return learning_rate(self._schedule, self._schedule.lr, number, self._num_steps, self._num_warmup)

    def is_finite(self) -> bool:
        """Whether all weights are numbers; this waits for the device."""
        return all(bool(weight.isfinite().all()) for weight in self._backbone.parameters())

    def weights(self) -> dict[str, Tensor]:
        """The backbone's, on the CPU; with the mean of its features where that is taken off."""
        weights = weights_on_cpu(self._backbone)
        if not self._centers:
            return weights
        every = np.random.default_rng(self._params.seed).permutation(len(self._images))
        center = mean_direction(self._backbone, self._images, every, self._mean, self._std)
        return weights if center is None else weights | {CENTER: center}

    def _embeddings(self, pixels: Tensor) -> Tensor:
        """float [B, 3, H, W] in [0, 1] to normalised features, float32 [B, D]."""
        half = self.precision != "float32"
        with torch.autocast(self.device.type, getattr(torch, self.precision), enabled=half):
            features = self._backbone((pixels - self._mean) / self._std)
        return F.normalize(features.float(), dim=1)

    @torch.no_grad()
    def _class_sums(self, images: Images, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> Tensor:
        """Of the start's embeddings, [K, D]; in the direction of a class's mean."""
        self._backbone.eval()
        num_classes, found = int(labels.max()) + 1, torch.zeros(())
        for part in np.array_split(np.arange(len(rows)), math.ceil(len(rows) / _AT_ONCE)):
            pixels = torch.from_numpy(images[rows[part]]).to(self.device).permute(0, 3, 1, 2) / 255
            of_part = self._embeddings(pixels).cpu()
            found = found + class_sums(of_part, torch.from_numpy(labels[part]), num_classes)
        return found


def _schedule(params: Finetune) -> Optimizer:
    """AdamW under a warm-up and a cosine, as a section of the optimisers that there are."""
    return Optimizer(
        name="adamw",
        lr=params.lr,
        scale_lr=False,
        backbone_lr_factor=params.backbone_lr_factor,
        head_epochs=0,
        schedule="cosine",
        warmup_epochs=1.0,
        momentum=0.9,
        weight_decay=params.weight_decay,
        trust_coefficient=0.001,
        clip_norm=None,
        accumulate=1,
    )
