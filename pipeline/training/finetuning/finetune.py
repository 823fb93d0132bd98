"""Fine-tuning: some labelled images in, a backbone that has learned their classes out."""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from pipeline.errors import NotFiniteError
from pipeline.params.finetune import Finetune
from pipeline.training.batches import Batches, Rows
from pipeline.training.finetuning.tuner import Start, Tuner
from pipeline.training.monitoring.epoch_log import EpochLog, Row
from pipeline.training.pixels import Images


@dataclass(frozen=True)
class Finetuned:
    """What a run leaves.

    Attributes:
        backbone: the weights of the last epoch, on the CPU; under `CENTER` the mean direction of their
            features, [D], where that is taken off.
        history: a row an epoch, from 1: epoch, loss, lr, and top1 on the views that were learned from.
        device: that the run was on.
        precision: of the forward pass.
    """

    backbone: dict[str, Tensor]
    history: list[Row]
    device: str
    precision: str

    @property
    def machine(self) -> dict[str, Any]:
        """What depends on the machine, for data/speed."""
        return {
            "device": self.device,
            "precision": self.precision,
            "num_threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }


def finetune(
    images: Images, rows: Rows, labels: NDArray[np.int64], start: Start, params: Finetune
) -> Finetuned:
    """Trains a backbone and a classifier with cross entropy on some labelled images.

    None of them is held out, so no epoch is chosen: the rate falls to zero, and the last is kept.

    Args:
        images: uint8 [N, H, W, 3], of which a batch is read at a time.
        rows: of those that are learned from, at least a batch: `share.labelled_share`.
        labels: their classes, [len(rows)].
        start: what it begins with; its backbone is changed in place.
        params: of the run; at least one epoch. Equal params, images, labels, start and kind of machine give
            equal bytes.

    Raises:
        NotFiniteError: the loss or the weights are no longer finite.
        MachineError: there is no such device.
    """
    classes, columns = np.unique(labels, return_inverse=True)
    per_epoch = len(rows) // params.batch_size
    num_steps = params.epochs * per_epoch
    tuner = Tuner(start, images, rows, columns, params, (num_steps, per_epoch))
    batches, shuffle = Batches(images, tuner.device), np.random.default_rng(params.seed)
    history: list[Row] = []
    # disable=None: no bar where there is no terminal
    with tqdm(total=num_steps, desc="finetune", unit=" steps", disable=None) as bar:
        _say(bar, f"{len(rows):,} labelled images of {len(classes):,} classes")
        for epoch in range(1, params.epochs + 1):
            log, step = EpochLog(), (epoch - 1) * per_epoch
            order = _whole_batches(shuffle.permutation(len(rows)), params.batch_size)
            for places, (_, batch) in zip(order, batches.read(rows[each] for each in order), strict=True):
                targets = torch.from_numpy(columns[places]).to(tuner.device, non_blocking=True)
                log.add(tuner.step(batch, targets, step))
                step += 1
                bar.update()
            history.append(row := log.row(epoch, tuner.learning_rate(step - 1)))
            _check_finite(row, tuner)
            _say(bar, f"epoch {epoch}/{params.epochs}, loss {row['loss']:.4g}, right {row['top1']:.3f}")
    return Finetuned(
        backbone=tuner.weights(),
        history=history,
        device=tuner.device.type,
        precision=tuner.precision,
    )


def _say(bar: "tqdm[Any]", line: str) -> None:
    bar.write(f"finetune: {line}")
    sys.stdout.flush()  # whoever reads a log should not be minutes behind


def _check_finite(row: Row, tuner: Tuner) -> None:
    what = "loss is" if not np.isfinite(row["loss"]) else "weights are" if not tuner.is_finite() else None
    if what is not None:
        raise NotFiniteError(
            f"the {what} no longer finite in epoch {row['epoch']:.0f} of the fine-tuning: lower finetune.lr "
            "in params.yaml"
        )


def _whole_batches(order: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """What is left over is left out, and differs from epoch to epoch."""
    return [order[start : start + batch_size] for start in range(0, len(order) - batch_size + 1, batch_size)]
