"""What learns: a network under an objective, on a device, and what one batch and one step do to it."""

import contextlib
import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.backbones import Backbone, build_backbone
from models.frozen import freeze
from models.methods import METHODS
from models.objective import Step
from models.refusal import first_line
from models.synchronised_norm import SynchronisedBatchNorm
from models.weights import CENTER, weights_on_cpu
from pipeline.errors import UserError
from pipeline.params.pretrain import Pretrain
from pipeline.training.distributed.world import ALONE, World
from pipeline.training.hardware.cuda_graph import Learned, RecordedStep
from pipeline.training.hardware.machine import choose_device, keep_freed_memory, make_deterministic
from pipeline.training.hardware.precision import precision_of
from pipeline.training.monitoring.epoch_log import scalars
from pipeline.training.monitoring.monitor import eval_mode
from pipeline.training.optimizers import build_optimizer, clip_gradient, set_learning_rate
from pipeline.training.pixels import Images, choose_statistics
from pipeline.training.views import make_views
from pipeline.training.weights.centering import mean_direction
from pipeline.training.weights.start import start_weights

# B batch, b this process's part of it, D feature


class Learner:
    """A backbone, its objective and its optimiser; the process is made repeatable by the run's seed.

    Args:
        images: uint8 [N, H, W, 3]; their size and the statistics of their pixels are read here.
        params: of the run.
        world: the processes that learn together; each of them has one of these.

    Attributes:
        device: that all of it is on.
        precision: of the forward pass.
        backbone: what is kept in the end.
        statistics: of the pixels.
        mean: the same on the device, [3, 1, 1].
        std: likewise.

    Raises:
        UserError: the backbone cannot be built, or takes no views of the size that params ask for.
        MachineError: there is no such device.
    """

    def __init__(self, images: Images, params: Pretrain, world: World = ALONE) -> None:
        self._params, self._images, self._world = params, images, world
        self.device = choose_device(params.device)
        image_size = images[np.zeros(1, dtype=np.int64)].shape[1]
        self.precision = precision_of(params, image_size, self.device)  # before the seed: it draws weights
        make_deterministic(params.seed)
        keep_freed_memory()

        self.backbone = _build(params, image_size)
        self.statistics = choose_statistics(params.normalization, self.backbone, images, params.seed)
        self.mean, self.std = (
            torch.tensor(values, device=self.device).view(3, 1, 1)
            for values in (self.statistics.mean, self.statistics.std)
        )
        objective = METHODS[params.method](
            self.backbone.module, self.backbone.feature_dim, **params.method_section.arguments()
        )
        _freeze(objective.backbone, params)  # before the optimiser asks what learns
        # channels_last: 1.3 times the views/s of NCHW on two cores
        self._objective = objective.to(self.device).to(memory_format=torch.channels_last)
        self._optimizer = build_optimizer(objective.parts(), params.optimizer)
        # float16 alone needs it: it has no exponents for small gradients
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")
        self._generator = torch.Generator(self.device).manual_seed(params.seed)

        self._forward = torch.compile(objective) if params.compile else world.parallel(objective)
        can_be_recorded = self.device.type == "cuda" and world.size == 1 and not params.compile
        is_recorded = can_be_recorded and params.cuda_graph
        self._recorded = RecordedStep(objective, [self._generator]) if is_recorded else None

    @property
    def modules(self) -> Mapping[str, Any]:
        """What changes from step to step, by name, for a checkpoint."""
        return {"objective": self._objective, "optimizer": self._optimizer, "scaler": self._scaler}

    @property
    def generators(self) -> Mapping[str, torch.Generator]:
        """What the views are drawn with, for a checkpoint."""
        return {"views": self._generator}

    def check_collection(self, num_images: int) -> None:
        """Refuses a collection that the method cannot learn from.

        Raises:
            UserError: it needs more images.
        """
        try:
            self._objective.check_collection(num_images)
        except ValueError as error:
            raise UserError(f"params.yaml: pretrain.{self._params.method}.{error}") from None

    def encoder_weights(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """The backbone's weights as they are, on the CPU; with the mean of its features where params ask so.

        Args:
            rows: of the images that the mean is of, in a random order.
        """
        weights = weights_on_cpu(self.backbone.module)
        if not self._params.center:
            return weights
        center = mean_direction(self.backbone.module, self._images, rows, self.mean, self.std)
        return weights if center is None else weights | {CENTER: center}

    @torch.no_grad()
    def look_at(self, batch: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The scalars of a batch that teaches nothing, not even the batch norms, which count what they see.

        Args:
            batch: uint8 [b, H, W, 3] on the device.
            labels: [B] on the device, or -1 where there is none.

        Raises:
            UserError: the method has no loss for such views.
        """
        try:
            return scalars(self._step(batch, labels, copy.deepcopy(self._objective)))
        except ValueError as error:
            raise UserError(f"params.yaml: pretrain: {error}") from None

    def learn_from(self, batch: Tensor, labels: Tensor) -> Learned:
        """Adds the gradient of a batch to those of the batches since the last update.

        Args:
            batch: uint8 [b, H, W, 3] on the device.
            labels: [B] on the device, or -1 where there is none.

        Returns:
            The features of the first views, [B, D], and the batch's scalars.

        Raises:
            UserError: on a GPU, of the first batch, where the step cannot be recorded.
        """
        if self._recorded is None:
            return self._add_gradient(batch, labels)
        return self._recorded(self._add_gradient, batch, labels)

    def update(self, lr: float, peak: float, *, head_alone: bool = False) -> None:
        """One step of the optimiser with the gradients that were added.

        Args:
            lr: of this step.
            peak: the highest of the run, which a constant rate is a multiple of.
            head_alone: the backbone's weights stay as they are; its batch norms count what they see, unless
                they are frozen.
        """
        backbone_lr = 0.0 if head_alone else lr * self._params.optimizer.backbone_lr_factor
        constant_lr = peak * self._objective.constant_lr_factor
        set_learning_rate(self._optimizer, {"backbone": backbone_lr, "head": lr, "constant": constant_lr})
        self._scaler.unscale_(self._optimizer)
        clip_gradient(self._objective, self._params.optimizer.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        # a recorded step writes the gradients where they are
        self._optimizer.zero_grad(set_to_none=self._recorded is None)

    def _add_gradient(self, batch: Tensor, labels: Tensor) -> Learned:
        step = self._step(batch, labels, self._forward)
        loss = step.loss / self._params.optimizer.accumulate
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return step.features, scalars(step)

    def _step(self, batch: Tensor, labels: Tensor, forward: Callable[..., Step]) -> Step:
        share = self._world.share(len(labels))
        views = make_views(batch, self._params.views, self._generator, self._params.num_views, share)
        half = self.precision != "float32"
        autocast = torch.autocast(self.device.type, getattr(torch, self.precision), enabled=half)
        synchronised = SynchronisedBatchNorm() if self._world.size > 1 else contextlib.nullcontext()
        with autocast, synchronised:
            return forward([(view - self.mean) / self.std for view in views], labels)


def _build(params: Pretrain, image_size: int) -> Backbone:
    weights = start_weights(params.backbone)
    try:
        backbone = build_backbone(**params.backbone.architecture(), image_size=image_size, weights=weights)
    except ValueError as error:
        raise UserError(f"params.yaml: pretrain.backbone: {error}") from None
    if params.epochs and params.views.size != image_size:  # without epochs there are no views
        _check_size(backbone.module, params, image_size)
    return backbone


def _freeze(backbone: nn.Module, params: Pretrain) -> None:
    try:
        freeze(backbone, params.backbone.freeze, batch_norms=params.backbone.batch_norm == "frozen")
    except ValueError as error:
        raise UserError(f"params.yaml: pretrain.backbone.{error}") from None


@torch.no_grad()
def _check_size(module: nn.Module, params: Pretrain, image_size: int) -> None:
    size = params.views.size
    try:
        with eval_mode(module):
            module(torch.zeros(1, 3, size, size))
    except Exception as error:  # each family of networks has its own way to refuse
        reason = first_line(error).rstrip(".")
        raise UserError(
            f"params.yaml: pretrain.views.size: {size}: backbone '{params.backbone.name}' takes no such "
            f"views ({reason}); it takes dataset.image_size: set views.size to {image_size}"
        ) from None
