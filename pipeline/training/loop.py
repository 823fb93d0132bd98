"""The training loop: unlabelled images in, a backbone and its history out."""

import copy
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from models.backbones import Backbone, build_backbone
from models.methods import METHODS
from models.objective import Step
from pipeline.errors import StoppedError, UserError
from pipeline.params.pretrain import Pretrain
from pipeline.training.batches import Batches, Rows
from pipeline.training.cuda_graph import Learned, RecordedStep
from pipeline.training.display.progress import Progress, Row
from pipeline.training.machine import choose_device, choose_precision, keep_freed_memory, make_deterministic
from pipeline.training.monitoring.epoch_log import EpochLog, scalars
from pipeline.training.monitoring.monitor import Watch
from pipeline.training.optimizers import (
    build_optimizer,
    clip_gradient,
    learning_rate,
    peak_learning_rate,
    set_learning_rate,
)
from pipeline.training.pixels import Images, PixelStatistics, choose_statistics
from pipeline.training.resuming.checkpoint import Checkpoints
from pipeline.training.resuming.interrupts import deferred_interrupts
from pipeline.training.resuming.run_state import RunState, weights_on_cpu
from pipeline.training.views import make_views

# B batch, D feature


@dataclass(frozen=True)
class TrainingRun:
    """What a run leaves.

    Attributes:
        backbone: the trained weights, on the CPU.
        untrained: the weights before the first step.
        feature_dim: what the backbone gives.
        statistics: of the pixels; the encoder normalises with them.
        history: a row an epoch, from epoch 0, the untrained network.
        device: that the run was on.
        precision: of the forward pass.
        seconds: of the training steps alone.
        views_per_s: in those.
    """

    backbone: dict[str, Tensor]
    untrained: dict[str, Tensor]
    feature_dim: int
    statistics: PixelStatistics
    history: list[Row]
    device: str
    precision: str
    seconds: float
    views_per_s: float


def train(
    images: Images,
    labels: NDArray[np.int64],
    params: Pretrain,
    checkpoints: Checkpoints | None = None,
    on_epoch: Callable[[list[Row]], None] = lambda history: None,
) -> TrainingRun:
    """Trains a backbone on images; the labels are only asked how well it does.

    Args:
        images: uint8 [N, H, W, 3], of which a batch is read at a time.
        labels: [N], classes, or -1 where there is none; without any label there is neither kNN nor probe.
        params: the run; equal params, images and kind of machine give equal bytes.
        checkpoints: where the run goes on from, and saves itself. With them Ctrl-C and SIGTERM let the step
            end and save it.
        on_epoch: is given the history whenever it has a new row, and once when the run goes on.

    Raises:
        UserError: fewer images than a batch or the method needs, a backbone that cannot be built, a collapse
            where that stops the run, or a loss that is no longer finite.
        MachineError: there is no such device.
        StoppedError: by a signal.
    """
    device = choose_device(params.device)
    precision = choose_precision(params.precision, device)
    make_deterministic(params.seed)
    keep_freed_memory()

    image_size = images[np.zeros(1, dtype=np.int64)].shape[1]
    backbone = _build(params, image_size)
    statistics = choose_statistics(params.normalization, backbone, images, params.seed)
    mean, std = (
        torch.tensor(values, device=device).view(3, 1, 1) for values in (statistics.mean, statistics.std)
    )
    untrained = weights_on_cpu(backbone.module)
    # channels_last: 1.3 times the views/s of NCHW on two cores
    objective = METHODS[params.method](
        backbone.module, backbone.feature_dim, **params.method_section.arguments()
    )
    objective = objective.to(device).to(memory_format=torch.channels_last)
    forward = torch.compile(objective) if params.compile else objective

    watch = Watch(images, labels, backbone, mean, std, params)
    try:
        objective.check_collection(len(watch.train_rows))
    except ValueError as error:
        raise UserError(f"params.yaml: pretrain.{params.method}.{error}") from None
    plan = _Plan(params, len(watch.train_rows))
    optimizer = build_optimizer(objective, objective.constant_lr_parameters(), params.optimizer)
    constant_lr = plan.peak * objective.constant_lr_factor
    # float16 alone needs it: it has no exponents for small gradients
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    generator = torch.Generator(device).manual_seed(params.seed)
    batches = Batches(images, device)

    accumulate = params.optimizer.accumulate

    def forward_on(batch: Tensor, batch_labels: Tensor, forward: Callable[..., Step]) -> Step:
        views = make_views(batch, params.views, generator, params.num_views)
        with torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32"):
            return forward([(view - mean) / std for view in views], batch_labels)

    def learn(batch: Tensor, batch_labels: Tensor) -> Learned:
        step = forward_on(batch, batch_labels, forward)
        scaler.scale(step.loss / accumulate).backward()  # type: ignore[no-untyped-call]
        return step.features, scalars(step)

    def labels_of(rows: Rows) -> Tensor:
        return torch.from_numpy(labels[rows]).to(device, non_blocking=True)

    is_recorded = device.type == "cuda" and params.cuda_graph and not params.compile
    learn_from = RecordedStep(learn, objective, [generator]) if is_recorded else learn

    run = RunState(
        modules={"objective": objective, "optimizer": optimizer, "scaler": scaler, **watch.modules},
        generators={"views": generator, "probe": watch.generator},
        shuffle=np.random.default_rng(params.seed),
    )
    goes_on = checkpoints is not None and checkpoints.load(run.load_state_dict)
    if not goes_on:
        # Epoch 0: the untrained network on one batch, through a copy, since batch norm counts what it sees.
        try:
            with torch.no_grad():
                ((rows, batch),) = batches.read([watch.train_rows[: params.batch_size]])
                first = EpochLog()
                first.add(scalars(forward_on(batch, labels_of(rows), copy.deepcopy(objective))))
        except ValueError as error:  # a backbone of one image size that the views do not have
            raise UserError(f"params.yaml: pretrain: {error}") from None
        run.history.append(_row(0, 0.0, first.columns()) | watch.measure())
    on_epoch(run.history)

    patience = params.early_stopping.patience
    steps_done = plan.steps_before(run.epoch, run.step)
    with (
        Progress(plan.num_steps, steps_done, params.epochs) as progress,
        deferred_interrupts(active=checkpoints is not None) as interrupts,
    ):
        if goes_on:
            progress.say(f"goes on in epoch {run.epoch}, after step {run.step} of {plan.steps_per_epoch}")
        else:
            progress.show_epoch(run.history[-1])
        while run.epoch <= params.epochs and not run.is_stale(patience):
            order = run.shuffled(watch.train_rows)
            todo = islice(_batches(order, params.batch_size), run.step * accumulate, plan.batches_per_epoch)
            run.start_clock()
            for number, (rows, batch) in enumerate(batches.read(todo), start=1):
                features, numbers = learn_from(batch, labels_of(rows))
                watch.teach(features, rows)
                run.log.add(numbers)
                if number % accumulate:
                    continue
                lr = plan.learning_rate(run.epoch, run.step)
                set_learning_rate(optimizer, lr, constant_lr)
                scaler.unscale_(optimizer)
                clip_gradient(objective, params.optimizer.clip_norm)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad(set_to_none=not is_recorded)
                run.step += 1
                if progress.step(accumulate * params.num_views * params.batch_size):
                    # reading the loss waits for the device, so it is read only when it is shown
                    progress.show(run.log.columns()["loss"][-1].item(), lr)
                    _check_finite(run, plan, checkpoints)
                if interrupts.signal is not None:
                    break
                if checkpoints is not None and progress.minutes_since_saved > params.checkpoint.minutes:
                    _save(checkpoints, run, plan, progress)
            _check_finite(run, plan, checkpoints)
            run.stop_clock()
            if run.step == plan.steps_per_epoch:
                lr = plan.learning_rate(run.epoch, run.step - 1)
                run.history.append(_row(run.epoch, lr, run.log.columns()) | watch.measure())
                progress.show_epoch(run.history[-1])
                on_epoch(run.history)
                _check_collapse(run.history[-1], params)
                if patience is not None:
                    run.keep_best(backbone.module)
                run.end_epoch()
            if checkpoints is not None:
                if interrupts.signal is not None:
                    saved = _save(checkpoints, run, plan, progress)
                    raise StoppedError(_farewell(run, plan, saved), interrupts.signal)
                if (run.epoch - 1) % params.checkpoint.epochs == 0:
                    _save(checkpoints, run, plan, progress)
        if run.is_stale(patience):
            progress.say(f"no lower loss for {patience} epochs: the weights of epoch {run.best_epoch}")

    num_epochs = len(run.history) - 1
    num_views = params.num_views * params.batch_size * plan.batches_per_epoch * num_epochs
    return TrainingRun(
        backbone=weights_on_cpu(backbone.module) if run.best_weights is None else run.best_weights,
        untrained=untrained,
        feature_dim=backbone.feature_dim,
        statistics=statistics,
        history=run.history,
        device=device.type,
        precision=precision,
        seconds=run.seconds,
        views_per_s=num_views / run.seconds if run.seconds else 0.0,
    )


class _Plan:
    """How many steps there are, and the learning rate of each.

    Raises:
        UserError: the batches of one step are more than the images.
    """

    def __init__(self, params: Pretrain, num_images: int) -> None:
        accumulate = params.optimizer.accumulate
        self._optimizer = params.optimizer
        self.steps_per_epoch = num_images // params.batch_size // accumulate
        if self.steps_per_epoch == 0:
            times = f" times optimizer.accumulate ({accumulate})" if accumulate > 1 else ""
            raise UserError(
                f"params.yaml: pretrain.batch_size: {params.batch_size}{times} is more than the "
                f"{num_images} images there are to train on (the rest is held out): choose a smaller batch"
            )
        self.batches_per_epoch = self.steps_per_epoch * accumulate
        self.num_steps = params.epochs * self.steps_per_epoch
        self.warmup_steps = round(params.optimizer.warmup_epochs * self.steps_per_epoch)
        self.lr_key, lr = params.peak_lr
        self.peak = peak_learning_rate(lr, params.optimizer, params.batch_size * accumulate)

    def steps_before(self, epoch: int, step: int) -> int:
        """Of the whole run, before a step of an epoch."""
        return (epoch - 1) * self.steps_per_epoch + step

    def learning_rate(self, epoch: int, step: int) -> float:
        """Of step `step`, from 0, of an epoch, from 1."""
        done = self.steps_before(epoch, step)
        return learning_rate(self._optimizer, self.peak, done, self.num_steps, self.warmup_steps)


def _build(params: Pretrain, image_size: int) -> Backbone:
    try:
        return build_backbone(**params.backbone.model_dump(), image_size=image_size)
    except ValueError as error:
        raise UserError(f"params.yaml: pretrain.backbone: {error}") from None


def _batches(rows: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Whole batches; what is left over is left out, and differs from epoch to epoch."""
    for start in range(0, len(rows) - batch_size + 1, batch_size):
        yield rows[start : start + batch_size]


def _check_finite(run: RunState, plan: _Plan, checkpoints: Checkpoints | None) -> None:
    """Stops a run whose loss is no longer finite, before anything good is overwritten."""
    losses = run.log.columns().get("loss", torch.zeros(1))
    if bool(losses.isfinite().all()):
        return
    first = int((~losses.isfinite()).nonzero()[0]) * plan.steps_per_epoch // plan.batches_per_epoch
    newest = checkpoints.newest() if checkpoints is not None else None
    kept = f"; the last good checkpoint is {newest}" if newest is not None else ""
    raise UserError(
        f"the loss is no longer finite in epoch {run.epoch}, at step {first + 1} of {plan.steps_per_epoch} "
        f"(learning rate {plan.learning_rate(run.epoch, first):.3g}): lower {plan.lr_key} in "
        f"params.yaml{kept}"
    )


def _save(checkpoints: Checkpoints, run: RunState, plan: _Plan, progress: Progress) -> bool:
    """Saves a state known to be good. A disk that is full is said, and the run goes on."""
    _check_finite(run, plan, checkpoints)
    run.stop_clock()
    try:
        checkpoints.save(run.state_dict(), plan.steps_before(run.epoch, run.step))
    except OSError as error:
        tqdm.write(f"warning: no checkpoint saved: {error.strerror or error}", file=sys.stderr)
        return False
    finally:
        progress.note_saved()
        run.start_clock()
    return True


def _farewell(run: RunState, plan: _Plan, saved: bool) -> str:
    where = f"interrupted in epoch {run.epoch} after step {run.step} of {plan.steps_per_epoch}"
    if saved:
        return f"{where}; saved: the same command goes on from here"
    return f"{where}; it could not be saved: the same command goes on from the last checkpoint"


def _check_collapse(row: Row, params: Pretrain) -> None:
    """Says, or stops, when the projections of all images are nearly the same."""
    output_dim = params.method_section.output_dim
    share = row["projection_std"] * math.sqrt(output_dim)
    if share >= params.collapse.threshold:
        return
    message = (
        f"epoch {row['epoch']:.0f}: the projections collapse: their standard deviation is "
        f"{row['projection_std']:.2g}, {share:.0%} of 1/sqrt({output_dim}), below "
        f"pretrain.collapse.threshold ({params.collapse.threshold:.0%})"
    )
    if params.collapse.action == "stop":
        raise UserError(f"{message}: lower {params.peak_lr[0]}, or check the method's params")
    tqdm.write(f"warning: {message}", file=sys.stderr)


def _row(epoch: int, lr: float, columns: dict[str, Tensor]) -> Row:
    """An epoch's means. A metric that a batch had nothing to say of (NaN) does not count; a loss does."""
    loss = columns.pop("loss").mean().item()
    return {"epoch": epoch, "loss": loss, "lr": lr} | {
        name: column.nanmean().item() for name, column in columns.items()
    }
