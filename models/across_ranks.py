"""What the processes that train one network together tell each other of a batch, with gradient.

Each process, a rank, has an equal share of every batch. What an objective compares it gathers first, so every
rank has the loss of the whole batch; the gradients of the weights are averaged over the ranks afterwards, as
torch's DistributedDataParallel does. In one process nothing here does anything.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# R ranks, b rows of one rank, B rows of all


def num_ranks() -> int:
    """R: the processes of torch's default group, or 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(rows: Tensor) -> Tensor:
    """The rows of all ranks in the order of the ranks, [b, ...] -> [B, ...]; b is the same on each.

    The gradient of a row is the sum of what all ranks have for it. Without the sum the gradient is 1 / R of
    what it should be once it is averaged (the fault of https://github.com/lightly-ai/lightly/issues/1528).
    """
    if num_ranks() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.num_rows = len(rows)
        return all_gather(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.narrow(0, dist.get_rank() * ctx.num_rows, ctx.num_rows)


def all_gather(rows: Tensor) -> Tensor:
    """As `gather`, without gradient."""
    if num_ranks() == 1:
        return rows
    gathered = rows.new_empty(num_ranks() * len(rows), *rows.shape[1:])
    dist.all_gather(list(gathered.chunk(num_ranks())), rows.contiguous())
    return gathered
