"""The training loop: unlabelled images in, a backbone and its history out."""

import copy
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from models.backbones import build_backbone
from models.methods import METHODS
from pipeline.artifacts import UNLABELLED
from pipeline.errors import MachineError, UserError
from pipeline.knn import knn_scores, nearest, normalize, topk_accuracy
from pipeline.params import Device, Monitor, Optimizer, Pretrain
from pipeline.views import two_views

# B batch, D feature

# The mean and the deviation of a channel are known to a thousandth from so many 32 px images.
_STATISTICS_SAMPLE = 10_000
# The same temperature for every monitored kNN, Wu et al. 2018, arXiv:1805.01978.
_KNN_TEMPERATURE = 0.07
_SECONDS_BETWEEN_LOSSES = 0.5
_IMAGES_AT_ONCE = 64


class Images(Protocol):
    """uint8 [N, H, W, 3], read by rows: an array, a memory map, or several as one."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class PixelStatistics:
    """Mean and standard deviation of each channel, on the scale from 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class TrainingRun:
    """What a run leaves.

    Attributes:
        backbone: the trained weights, on the CPU.
        untrained: the weights before the first step.
        feature_dim: what the backbone gives.
        statistics: of the training pixels; the encoder normalises with them.
        history: a row an epoch, from epoch 0, the untrained network.
        device: that the run was on.
        precision: of the forward pass.
        views_per_s: over the training steps alone.
    """

    backbone: dict[str, Tensor]
    untrained: dict[str, Tensor]
    feature_dim: int
    statistics: PixelStatistics
    history: list[dict[str, float]]
    device: str
    precision: str
    views_per_s: float


def train(images: Images, labels: NDArray[np.int64], params: Pretrain) -> TrainingRun:
    """Trains a backbone on images; the labels are only asked how well it does (the monitored kNN).

    Args:
        images: uint8 [N, H, W, 3], of which a batch is read at a time.
        labels: [N], classes, or -1 where there is none; without any label there is no kNN.
        params: the run; equal params, images and kind of machine give equal bytes.

    Raises:
        UserError: fewer images than a batch needs, or the loss is no longer finite.
        MachineError: there is no such device.
    """
    device = choose_device(params.device)
    precision = choose_precision(params.precision, device)
    make_deterministic(params.seed)

    train_rows, holdout_rows = hold_out(labels, params.monitor, params.seed)
    bank_rows = train_rows[labels[train_rows] != UNLABELLED][: params.monitor.bank_size]
    steps_per_epoch = len(train_rows) // params.batch_size
    if steps_per_epoch == 0:
        raise UserError(
            f"params.yaml: pretrain.batch_size: {params.batch_size} is more than the {len(train_rows)} "
            "images there are to train on (the rest is held out): choose a smaller batch"
        )
    statistics = pixel_statistics(images, params.seed)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in _channels(statistics))

    backbone, feature_dim = build_backbone(params.backbone.name, params.backbone.width)
    untrained = _on_cpu(backbone)
    method_options = getattr(params, params.method).model_dump()
    objective = METHODS[params.method](backbone, feature_dim, **params.head.model_dump(), **method_options)
    # channels_last: 1.3 times the views/s of NCHW on two cores
    objective = objective.to(device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(objective, params.optimizer)
    shuffle = np.random.default_rng(params.seed)
    generator = torch.Generator(device).manual_seed(params.seed)

    def loss_of(rows: NDArray[np.int64], objective: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
        batch = torch.from_numpy(images[rows]).to(device)
        view0, view1 = two_views(batch, params.views, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return objective((view0 - mean) / std, (view1 - mean) / std)  # type: ignore[no-any-return]

    def watch() -> dict[str, float]:
        if len(bank_rows) == 0 or len(holdout_rows) == 0:
            return {}
        bank, queries = (
            normalize(extract_features(backbone, images, rows, statistics, device))
            for rows in (bank_rows, holdout_rows)
        )
        k = min(params.monitor.k, len(bank))
        similarities, neighbors = nearest(queries, bank, k)
        scores = knn_scores(
            similarities, labels[bank_rows][neighbors], int(labels.max()) + 1, _KNN_TEMPERATURE
        )
        return {"knn_top1": topk_accuracy(scores, labels[holdout_rows], 1)}

    # Epoch 0: the untrained network on one batch, through a copy, since batch norm counts what it sees.
    with torch.no_grad():
        loss, metrics = loss_of(train_rows[: params.batch_size], copy.deepcopy(objective))
    history = [_row(0, lr=0.0, losses=[loss], metrics=[metrics]) | watch()]

    seconds = 0.0
    bar = tqdm(total=params.epochs * steps_per_epoch, desc="pretrain", unit=" steps", disable=None)
    bar.write(_line(history[-1], params.epochs))
    for epoch in range(1, params.epochs + 1):
        started = shown = time.perf_counter()
        losses, recorded = [], []
        for step, rows in enumerate(_batches(shuffle.permutation(train_rows), params.batch_size)):
            lr = learning_rate(params, (epoch - 1) * steps_per_epoch + step, steps_per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = lr
            loss, metrics = loss_of(rows, objective)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach())
            recorded.append(metrics)
            bar.update()
            if time.perf_counter() - shown > _SECONDS_BETWEEN_LOSSES:
                shown = time.perf_counter()
                views_per_s = 2 * params.batch_size * (step + 1) / (shown - started)
                # reading the loss waits for the device, so it is read only when it is shown
                bar.set_postfix_str(f"loss {loss.item():.3f}, lr {lr:.3f}, {views_per_s:.0f} views/s")
        row = _row(epoch, lr, losses, recorded)
        seconds += time.perf_counter() - started
        if not math.isfinite(row["loss"]):
            raise UserError(
                f"the loss is no longer finite in epoch {epoch} (learning rate {lr:.3g}): "
                "lower pretrain.optimizer.lr in params.yaml"
            )
        history.append(row | watch())
        bar.write(_line(history[-1], params.epochs))
    bar.close()

    num_views = 2 * params.batch_size * steps_per_epoch * params.epochs
    return TrainingRun(
        backbone=_on_cpu(backbone),
        untrained=untrained,
        feature_dim=feature_dim,
        statistics=statistics,
        history=history,
        device=device.type,
        precision=precision,
        views_per_s=num_views / seconds if seconds else 0.0,
    )


def choose_device(name: Device) -> torch.device:
    """The device to train on: `auto` is CUDA where there is one.

    Raises:
        MachineError: `cuda` on a machine that has none.
    """
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise MachineError("pretrain.device is cuda, but torch finds no CUDA device here: set auto or cpu")
    return torch.device("cuda" if name != "cpu" and has_cuda else "cpu")


def choose_precision(name: str, device: torch.device) -> str:
    """`auto` is bfloat16 where the processor or the GPU computes in it, else float32.

    Without such instructions bfloat16 is emulated: 155 views/s against 255 in float32 (ResNet-20, batch 256,
    two cores with AVX-512 but not AVX512-bf16).
    """
    if name != "auto":
        return name
    native = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if device.type == "cuda"
        else torch.cpu._is_avx512_bf16_supported()
    )
    return "bfloat16" if native else "float32"


def make_deterministic(seed: int) -> None:
    """Seeds torch and refuses operations whose result depends on timing."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for equal bytes
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.manual_seed(seed)


def hold_out(
    labels: NDArray[np.int64], params: Monitor, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on and labelled rows held out for the monitored kNN, both in a seeded random order.

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


def pixel_statistics(images: Images, seed: int) -> PixelStatistics:
    """Mean and deviation of each channel over (at most 10,000 of) the images, uint8 [N, H, W, 3]."""
    rows = np.arange(len(images))
    if len(images) > _STATISTICS_SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _STATISTICS_SAMPLE, replace=False))
    counts = np.zeros((3, 256), dtype=np.int64)
    for start in range(0, len(rows), _IMAGES_AT_ONCE):
        pixels = images[rows[start : start + _IMAGES_AT_ONCE]]
        for channel in range(3):
            counts[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(axis=1)
    variance = counts @ values**2 / counts.sum(axis=1) - mean**2
    std = np.sqrt(np.maximum(variance, 1 / 255**2))  # one colour all over: divide by one grey level
    red, green, blue = zip(mean.tolist(), std.tolist(), strict=True)
    return PixelStatistics(mean=(red[0], green[0], blue[0]), std=(red[1], green[1], blue[1]))


def build_optimizer(objective: nn.Module, params: Optimizer) -> torch.optim.Optimizer:
    """SGD with momentum; biases and norms, which have one dimension, do not decay."""
    decayed = [weight for weight in objective.parameters() if weight.ndim > 1]
    others = [weight for weight in objective.parameters() if weight.ndim <= 1]
    return torch.optim.SGD(
        [
            {"params": decayed, "weight_decay": params.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=params.lr,
        momentum=params.momentum,
    )


def learning_rate(params: Pretrain, step: int, steps_per_epoch: int) -> float:
    """Linear warm-up to the peak, then a cosine that reaches zero after the last step.

    Args:
        params: of them `epochs` and `optimizer`.
        step: from 0.
        steps_per_epoch: of the run.

    Source: Loshchilov and Hutter 2016, arXiv:1608.03983, without restarts; warm-up as in SimCLR.
    """
    warmup_steps = round(params.optimizer.warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return params.optimizer.lr * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (params.epochs * steps_per_epoch - warmup_steps)
    return params.optimizer.lr * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def extract_features(
    backbone: nn.Module,
    images: Images,
    rows: NDArray[np.int64],
    statistics: PixelStatistics,
    device: torch.device,
    batch_size: int = 256,
) -> NDArray[np.float32]:
    """Features of whole images, in eval mode and float32: [len(rows), D]. The mode is put back."""
    mean, std = (torch.tensor(values, device=device) for values in _channels(statistics))
    was_training = backbone.training
    backbone.eval()
    features = []
    for batch in np.array_split(rows, math.ceil(len(rows) / batch_size)):
        pixels = (torch.from_numpy(images[batch]).to(device) / 255 - mean) / std
        features.append(backbone(pixels.permute(0, 3, 1, 2)).float().cpu().numpy())
    backbone.train(was_training)
    return np.concatenate(features)


def _channels(statistics: PixelStatistics) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return statistics.mean, statistics.std


def _batches(rows: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Whole batches; what is left over is left out, and differs from epoch to epoch."""
    for start in range(0, len(rows) - batch_size + 1, batch_size):
        yield rows[start : start + batch_size]


def _on_cpu(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: value.detach().cpu().contiguous().clone(memory_format=torch.contiguous_format)
        for name, value in module.state_dict().items()
    }


def _row(epoch: int, lr: float, losses: list[Tensor], metrics: list[dict[str, Tensor]]) -> dict[str, float]:
    means = {name: torch.stack([step[name] for step in metrics]).mean().item() for name in metrics[0]}
    return {"epoch": epoch, "loss": torch.stack(losses).mean().item(), "lr": lr} | means


def _line(row: dict[str, float], epochs: int) -> str:
    figures = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
    return f"epoch {row['epoch']:.0f}/{epochs}: {figures}"
