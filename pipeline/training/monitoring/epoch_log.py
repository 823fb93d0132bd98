"""What the batches of an epoch gave: a few numbers each, left on the device until somebody asks for them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.objective import Step, projection_std

# T batches

Row = dict[str, float]  # an epoch's figures, by name

# A number of its own takes a GPU 512 bytes, and an epoch may have a million batches.
_LEFT_ON_DEVICE = 512


def scalars(step: Step) -> dict[str, Tensor]:
    """What is kept of a step until its epoch ends, and nothing that holds a tensor of the batch in memory.

    A batch norm after the projection hides a collapse of what stands before it down to its epsilon, so the
    spread of the backbone's own features is recorded too.
    """
    return {"loss": step.loss.detach()} | step.metrics | {"feature_std": projection_std(step.features)}


class EpochLog:
    """The scalars of an epoch's batches, in their order.

    Args:
        columns: what a log of the same epoch gave before, to go on from.
    """

    def __init__(self, columns: Mapping[str, Tensor] | None = None) -> None:
        self._read = dict(columns or {})
        self._unread: list[dict[str, Tensor]] = []

    def add(self, batch: dict[str, Tensor]) -> None:
        """Notes a batch's scalars, float32 and of the same names every time, without waiting for them."""
        self._unread.append(batch)
        if len(self._unread) == _LEFT_ON_DEVICE:
            self.columns()

    def columns(self) -> dict[str, Tensor]:
        """Everything so far by name, float32 [T] on the CPU; this waits for the device."""
        if self._unread:
            # one transfer for all
            table = torch.stack([torch.stack(list(batch.values())) for batch in self._unread]).cpu()
            for name, column in zip(self._unread[0], table.unbind(1), strict=True):
                before = [self._read[name]] if name in self._read else []
                self._read[name] = torch.cat([*before, column])
            self._unread = []
        return dict(self._read)

    def row(self, epoch: int, lr: float) -> Row:
        """The means of the epoch's batches; this waits for the device.

        A metric that a batch had nothing to say of (NaN) does not count; a loss does.

        Args:
            epoch: from 0, the start.
            lr: of its last step.
        """
        columns = self.columns()
        loss = columns.pop("loss").mean().item()
        return {"epoch": epoch, "loss": loss, "lr": lr} | {
            name: column.nanmean().item() for name, column in columns.items()
        }
