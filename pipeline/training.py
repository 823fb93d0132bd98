"""The training loop: unlabelled images in, a backbone and its history out."""

import copy
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from models.backbones import Backbone, build_backbone
from models.methods import METHODS
from models.objective import Step, projection_std
from pipeline.errors import UserError
from pipeline.machine import choose_device, choose_precision, keep_freed_memory, make_deterministic
from pipeline.monitor import Watch
from pipeline.optimizers import (
    build_optimizer,
    clip_gradient,
    learning_rate,
    peak_learning_rate,
    set_learning_rate,
)
from pipeline.params import Pretrain
from pipeline.pixels import Images, PixelStatistics, choose_statistics
from pipeline.views import make_views

# B batch, D feature

_SECONDS_BETWEEN_LOSSES = 0.5


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
    history: list[dict[str, float]]
    device: str
    precision: str
    seconds: float
    views_per_s: float


def train(images: Images, labels: NDArray[np.int64], params: Pretrain) -> TrainingRun:
    """Trains a backbone on images; the labels are only asked how well it does.

    Args:
        images: uint8 [N, H, W, 3], of which a batch is read at a time.
        labels: [N], classes, or -1 where there is none; without any label there is neither kNN nor probe.
        params: the run; equal params, images and kind of machine give equal bytes.

    Raises:
        UserError: fewer images than a batch needs, a backbone that cannot be built, a collapse where that
            stops the run, or a loss that is no longer finite.
        MachineError: there is no such device.
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
    untrained = _on_cpu(backbone.module)
    section = getattr(params, params.method)
    # channels_last: 1.3 times the views/s of NCHW on two cores
    objective = METHODS[params.method](backbone.module, backbone.feature_dim, **section.model_dump())
    objective = objective.to(device).to(memory_format=torch.channels_last)

    watch = Watch(images, labels, backbone, mean, std, params)
    accumulate = params.optimizer.accumulate
    steps_per_epoch = len(watch.train_rows) // params.batch_size // accumulate
    if steps_per_epoch == 0:
        times = f" times optimizer.accumulate ({accumulate})" if accumulate > 1 else ""
        raise UserError(
            f"params.yaml: pretrain.batch_size: {params.batch_size}{times} is more than the "
            f"{len(watch.train_rows)} images there are to train on (the rest is held out): choose a smaller "
            "batch"
        )
    peak = peak_learning_rate(params.optimizer, params.batch_size * accumulate)
    num_steps = params.epochs * steps_per_epoch
    warmup_steps = round(params.optimizer.warmup_epochs * steps_per_epoch)
    optimizer = build_optimizer(objective, objective.constant_lr_parameters(), params.optimizer)
    shuffle = np.random.default_rng(params.seed)
    generator = torch.Generator(device).manual_seed(params.seed)

    def step_on(rows: NDArray[np.int64], objective: nn.Module) -> Step:
        batch = torch.from_numpy(images[rows]).to(device)
        views = make_views(batch, params.views, generator, params.num_views)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            batch_labels = torch.from_numpy(labels[rows]).to(device)
            return objective([(view - mean) / std for view in views], batch_labels)  # type: ignore[no-any-return]

    # Epoch 0: the untrained network on one batch, through a copy, since batch norm counts what it sees.
    try:
        with torch.no_grad():
            first = step_on(watch.train_rows[: params.batch_size], copy.deepcopy(objective))
    except ValueError as error:  # a backbone of one image size that the views do not have
        raise UserError(f"params.yaml: pretrain: {error}") from None
    history = [_row(0, 0.0, [_scalars(first)]) | watch.measure()]

    seconds, step = 0.0, 0
    best_loss, best_epoch, best_weights = math.inf, 0, untrained
    bar = tqdm(total=num_steps, desc="pretrain", unit=" steps", disable=None)
    bar.write(_line(history[-1], params.epochs))
    for epoch in range(1, params.epochs + 1):
        started = shown = time.perf_counter()
        taken: list[dict[str, Tensor]] = []
        batches = _batches(shuffle.permutation(watch.train_rows), params.batch_size)
        for _ in range(steps_per_epoch):
            lr = learning_rate(params.optimizer, peak, step, num_steps, warmup_steps)
            set_learning_rate(optimizer, lr, peak)
            optimizer.zero_grad()
            for _ in range(accumulate):
                rows = next(batches)
                outcome = step_on(rows, objective)
                (outcome.loss / accumulate).backward()  # type: ignore[no-untyped-call]
                watch.teach(outcome.features, rows)
                taken.append(_scalars(outcome))
            clip_gradient(objective, params.optimizer.clip_norm)
            optimizer.step()
            step += 1
            bar.update()
            if time.perf_counter() - shown > _SECONDS_BETWEEN_LOSSES:
                shown = time.perf_counter()
                num_views = params.num_views * params.batch_size * len(taken)
                # reading the loss waits for the device, so it is read only when it is shown
                loss, rate = taken[-1]["loss"].item(), num_views / (shown - started)
                bar.set_postfix_str(f"loss {loss:.3f}, lr {lr:.3g}, {rate:.0f} views/s")
        row = _row(epoch, lr, taken)
        seconds += time.perf_counter() - started
        if not math.isfinite(row["loss"]):
            raise UserError(
                f"the loss is no longer finite in epoch {epoch} (learning rate {lr:.3g}): "
                "lower pretrain.optimizer.lr in params.yaml"
            )
        history.append(row | watch.measure())
        bar.write(_line(history[-1], params.epochs))
        _check_collapse(history[-1], section.output_dim, params)
        if params.early_stopping.patience is not None:
            if row["loss"] < best_loss:
                best_loss, best_epoch, best_weights = row["loss"], epoch, _on_cpu(backbone.module)
            elif epoch - best_epoch >= params.early_stopping.patience:
                bar.write(f"no lower loss for {epoch - best_epoch} epochs: the weights of epoch {best_epoch}")
                break
    bar.close()

    stops_early = params.early_stopping.patience is not None
    num_epochs = len(history) - 1
    num_views = params.num_views * params.batch_size * accumulate * steps_per_epoch * num_epochs
    return TrainingRun(
        backbone=best_weights if stops_early else _on_cpu(backbone.module),
        untrained=untrained,
        feature_dim=backbone.feature_dim,
        statistics=statistics,
        history=history,
        device=device.type,
        precision=precision,
        seconds=seconds,
        views_per_s=num_views / seconds if seconds else 0.0,
    )


def _build(params: Pretrain, image_size: int) -> Backbone:
    chosen = params.backbone
    try:
        return build_backbone(
            chosen.name,
            width=chosen.width,
            image_size=image_size,
            stem=chosen.stem,
            pretrained=chosen.pretrained,
        )
    except ValueError as error:
        raise UserError(f"params.yaml: pretrain.backbone: {error}") from None


def _batches(rows: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Whole batches; what is left over is left out, and differs from epoch to epoch."""
    for start in range(0, len(rows) - batch_size + 1, batch_size):
        yield rows[start : start + batch_size]


def _on_cpu(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: value.detach().cpu().contiguous().clone(memory_format=torch.contiguous_format)
        for name, value in module.state_dict().items()
    }


def _scalars(step: Step) -> dict[str, Tensor]:
    """What is kept of a step until its epoch ends, and nothing that holds a tensor of the batch in memory.

    A batch norm after the projection hides a collapse of what stands before it down to its epsilon, so the
    spread of the backbone's own features is recorded too.
    """
    return {"loss": step.loss.detach()} | step.metrics | {"feature_std": projection_std(step.features)}


def _check_collapse(row: dict[str, float], output_dim: int, params: Pretrain) -> None:
    """Says, or stops, when the projections of all images are nearly the same."""
    share = row["projection_std"] * math.sqrt(output_dim)
    if share >= params.collapse.threshold:
        return
    message = (
        f"epoch {row['epoch']:.0f}: the projections collapse: their standard deviation is "
        f"{row['projection_std']:.2g}, {share:.0%} of 1/sqrt({output_dim}), below "
        f"pretrain.collapse.threshold ({params.collapse.threshold:.0%})"
    )
    if params.collapse.action == "stop":
        raise UserError(f"{message}: lower pretrain.optimizer.lr, or check the method's params")
    tqdm.write(f"warning: {message}", file=sys.stderr)


def _row(epoch: int, lr: float, steps: list[dict[str, Tensor]]) -> dict[str, float]:
    """An epoch's means. A metric that a batch had nothing to say of (NaN) does not count; a loss does."""
    columns = {name: torch.stack([step[name] for step in steps]) for name in steps[0]}
    loss = columns.pop("loss").mean().item()
    return {"epoch": epoch, "loss": loss, "lr": lr} | {
        name: column.nanmean().item() for name, column in columns.items()
    }


def _line(row: dict[str, float], epochs: int) -> str:
    figures = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
    return f"epoch {row['epoch']:.0f}/{epochs}: {figures}"
