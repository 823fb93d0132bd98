"""A loss that is no longer finite: the run stops, or ends with its best epoch."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from pipeline.errors import NotFiniteError
from pipeline.training.plan import Plan

# T batches


def check_finite(
    losses: Tensor, epoch: int, plan: Plan, newest_checkpoint: Callable[[], Path | None]
) -> None:
    """Stops a run whose loss is no longer finite, before anything good is overwritten.

    Args:
        losses: of the epoch's batches so far, [T].
        epoch: from 1.
        plan: of the run.
        newest_checkpoint: gives the last good state, where there is one; asked only to be named.

    Raises:
        NotFiniteError: it is so; the message names the step, the learning rate and its key.
    """
    if bool(losses.isfinite().all()):
        return
    first = int((~losses.isfinite()).nonzero()[0]) * plan.steps_per_epoch // plan.batches_per_epoch
    newest = newest_checkpoint()
    kept = "" if newest is None else f"; the last good checkpoint is {newest}"
    raise NotFiniteError(
        f"the loss is no longer finite in epoch {epoch}, at step {first + 1} of {plan.steps_per_epoch} "
        f"(learning rate {plan.learning_rate(epoch, first):.3g}): lower {plan.lr_key} in params.yaml{kept}"
    )
