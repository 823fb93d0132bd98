"""How a process joins the others of its run: those that `ranks` started, or torchrun."""

import contextlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from pipeline.errors import MachineError, UserError
from pipeline.params.pretrain import Pretrain
from pipeline.training.distributed.world import ALONE, World
from pipeline.training.hardware.machine import choose_device

LOST = "another process of this run is gone: the same command goes on from the last checkpoint"


@dataclass(frozen=True)
class Seat:
    """A process's place in a run of several.

    Attributes:
        rank: among all of them, from 0.
        size: how many there are.
        local_rank: among those of this machine.
        local_size: how many those are.
        meeting: where they find each other, as torch's `init_method`.
        num_threads: of all of them on this machine, where they compute on the CPU.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    meeting: str
    num_threads: int


def torchrun_seat() -> Seat | None:
    """The place that torchrun gave to this process, in its environment; None where it did not start it."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    # torchrun has divided them
    return Seat(rank, size, local_rank, local_size, "env://", torch.get_num_threads() * local_size)


def check_machine(params: Pretrain, local_size: int) -> None:
    """Holds that this machine has a GPU for each process, where they compute on GPUs.

    Raises:
        MachineError: it has fewer.
    """
    if choose_device(params.device).type == "cuda" and local_size > torch.cuda.device_count():
        raise MachineError(
            f"{local_size} processes need a GPU each, and here are {torch.cuda.device_count()}: lower "
            "pretrain.processes (or torchrun's --nproc-per-node), or set pretrain.device: cpu"
        )


@contextmanager
def joined(params: Pretrain, seat: Seat | None) -> Iterator[World]:
    """The world that a process trains in; only the first of it prints.

    Args:
        params: of the run.
        seat: of this process, or None where it trains alone.

    Raises:
        UserError: so many processes cannot train this run.
        MachineError: there are fewer GPUs than processes, or another process went away.
    """
    if seat is None or seat.size == 1:
        yield ALONE
        return
    try:
        params.check_processes(seat.size)
    except ValueError as error:
        raise UserError(f"params.yaml: pretrain: {error}") from None
    check_machine(params, seat.local_size)
    if choose_device(params.device).type == "cuda":
        torch.cuda.set_device(seat.local_rank)
        backend = "cpu:gloo,cuda:nccl"  # what is agreed on needs no GPU
    else:
        torch.set_num_threads(max(1, seat.num_threads // seat.local_size))
        backend = "gloo"
    with _plain_loss(), _silence(active=seat.rank > 0):
        dist.init_process_group(backend, init_method=seat.meeting, rank=seat.rank, world_size=seat.size)
        yield World(seat.rank, seat.size, seat.num_threads)
        dist.destroy_process_group()


@contextmanager
def _plain_loss() -> Iterator[None]:
    """Says in one line that the others do not answer any more.

    Raises:
        MachineError: it is so.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo has no class for it; its messages name the file that they come from
        if isinstance(error, dist.DistError) or "gloo/" in str(error):
            raise MachineError(LOST) from None
        raise


@contextmanager
def _silence(*, active: bool) -> Iterator[None]:
    """What is printed is printed by the first alone; errors leave the block and are not swallowed."""
    if not active:
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
