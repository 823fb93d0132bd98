"""Which epoch's weights a run ends with, read off its history."""

import math
from collections.abc import Sequence

from pipeline.params.pretrain import Pretrain
from pipeline.training.monitoring.epoch_log import Row


def kept_epoch(history: Sequence[Row], params: Pretrain, *, best: bool) -> int:
    """The epoch whose weights a run ends with.

    Args:
        history: a row an epoch, from epoch 0, the start; at least that one.
        params: of the run.
        best: whether the best epoch is asked for, and the held-out images can choose it.

    Returns:
        That of the best held-out kNN, of equals the first; else, with a patience, that of the lowest loss,
        the start excluded; else the last.
    """
    if best:
        return max(range(len(history)), key=lambda epoch: history[epoch]["knn_top1"])
    if params.early_stopping.patience is not None:
        return lowest_loss(history)
    return len(history) - 1


def lowest_loss(history: Sequence[Row]) -> int:
    """The first epoch of the lowest loss; 0 before one is done: the start has learned nothing."""
    losses = [math.inf, *(row["loss"] for row in history[1:])]
    return losses.index(min(losses))
