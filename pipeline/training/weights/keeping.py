"""Which epoch's weights a run ends with, read off its history."""

import math
from collections.abc import Sequence

from pipeline.params.pretrain import Pretrain
from pipeline.training.monitoring.epoch_log import Row


def chooses(history: Sequence[Row], params: Pretrain) -> bool:
    """Whether a run keeps other weights than its last, so that those of an epoch must be put aside."""
    return can_keep_best(history, params) or params.early_stopping.patience is not None


def can_keep_best(history: Sequence[Row], params: Pretrain) -> bool:
    """Whether the best epoch is asked for, and labelled images are held out to choose it by."""
    return params.keep == "best" and "knn_top1" in history[0]


def kept_epoch(history: Sequence[Row], params: Pretrain) -> int:
    """The epoch whose weights a run ends with.

    Args:
        history: a row an epoch, from epoch 0, the start; at least that one.
        params: of the run.

    Returns:
        With `keep: best` the one of the best held-out kNN, of equals the first, where there is any; else with
        a patience that of the lowest loss, the start excluded; else the last.
    """
    if can_keep_best(history, params):
        return max(range(len(history)), key=lambda epoch: history[epoch]["knn_top1"])
    if params.early_stopping.patience is not None:
        return lowest_loss(history)
    return len(history) - 1


def lowest_loss(history: Sequence[Row]) -> int:
    """The first epoch of the lowest loss; 0 before one is done: the start has learned nothing."""
    losses = [math.inf, *(row["loss"] for row in history[1:])]
    return losses.index(min(losses))
