"""The processes that train one network together: which one this is, its share, and what all agree on."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.across_ranks import all_gather

# N rows of all ranks

T = TypeVar("T")
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Share:
    """What one rank has of so many rows.

    Attributes:
        total: N.
        rows: its places among them, int64; as many on each rank, so where that does not go even some ranks
            have the last one again.
    """

    total: int
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """A process, a rank, among those of its run; by itself it is the only one.

    Attributes:
        rank: from 0; the first writes, the others learn.
        size: how many there are.
        num_threads: of all of them on this machine; None: as many as torch has in this one.
    """

    rank: int = 0
    size: int = 1
    num_threads: int | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def share(self, total: int) -> Share | None:
        """What this rank has of so many rows; None where it has all of them."""
        if self.size == 1:
            return None
        each = -(-total // self.size)
        rows = np.arange(self.rank * each, (self.rank + 1) * each).clip(max=total - 1)
        return Share(total, rows)

    def spread(self, compute: Callable[[NDArray[np.int64]], Tensor], rows: NDArray[np.int64]) -> Tensor:
        """What `compute` gives for all rows, a row each, [N, ...]; each rank computes its share alone."""
        share = self.share(len(rows))
        return compute(rows) if share is None else all_gather(compute(rows[share.rows]))[: len(rows)]

    def most(self, *numbers: int) -> tuple[int, ...]:
        """Of each number the largest that a rank has; nobody waits for a GPU."""
        if self.size == 1:
            return numbers
        largest = torch.tensor(numbers)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return tuple(largest.tolist())

    def first(self, value: T) -> T:
        """The first rank's value, on every rank: what is decided by it is decided alike."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=_CPU)
        return values[0]

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module whose gradients are the means over the ranks; it begins as the first rank has it."""
        if self.size == 1:
            return module
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # its new name, which older versions do not know
            # Buffers are computed equal. Weights without a gradient are looked for, since where torch does so
            # it sums in the same order in every step, also in the first after a run goes on.
            return DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=True)


ALONE = World()
