"""What stops a run, or warns of it, in plain words: a collapse, full memory."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tqdm import tqdm

from pipeline.errors import MachineError, UserError
from pipeline.params.pretrain import Pretrain
from pipeline.training.monitoring.epoch_log import Row


def sphere_share(row: Row, params: Pretrain) -> float:
    """How far the projections spread: their standard deviation as a share of 1 / sqrt(D), a sphere's."""
    return row["projection_std"] * math.sqrt(params.method_section.output_dim)


def check_collapse(row: Row, params: Pretrain, feature_dim: int) -> None:
    """Says, or stops, when the projections or the features of all images are nearly the same.

    A batch norm at the end of a projector spreads whatever it is given, so the backbone's own features are
    asked too. Those of an untrained network fill between a third of the sphere (ResNet-20) and nine tenths
    (timm's mobilenetv3_small_100).

    Args:
        row: of the epoch.
        params: of the run; `collapse` says from where on, and what happens.
        feature_dim: of the backbone.

    Raises:
        UserError: the run is to stop.
    """
    output_dim, threshold = params.method_section.output_dim, params.collapse.threshold
    for what, std, dim in (
        ("projections", row["projection_std"], output_dim),
        ("backbone's features", row["feature_std"], feature_dim),
    ):
        share = std * math.sqrt(dim)
        if share >= threshold:
            continue
        message = (
            f"epoch {row['epoch']:.0f}: the {what} collapse: their standard deviation is {std:.2g}, "
            f"{share:.0%} of 1/sqrt({dim}), below pretrain.collapse.threshold ({threshold:.0%})"
        )
        if params.collapse.action == "stop":
            raise UserError(f"{message}: lower {params.peak_lr[0]}, or check the method's params")
        tqdm.write(f"warning: {message}", file=sys.stderr)


@contextmanager
def machine_errors(params: Pretrain) -> Iterator[None]:
    """Says in one line that memory is full, or that torch has no compiler that works.

    Raises:
        MachineError: it is so.
    """
    mend = (
        f"at pretrain.batch_size {params.batch_size} and pretrain.views.size {params.views.size}: lower one "
        "(and raise pretrain.optimizer.accumulate, so that a step takes as many images), or use a smaller "
        "backbone"
    )
    try:
        with memory_errors(mend):
            yield
    except RuntimeError as error:
        if not (params.compile and isinstance(error, torch._dynamo.exc.BackendCompilerFailed)):
            raise
        reason = str(error.inner_exception).splitlines()[0]
        raise MachineError(
            f"pretrain.compile is true, but torch cannot compile here ({reason}): install a C++ compiler "
            "(g++) and Python's headers, or set it to false"
        ) from None


@contextmanager
def memory_errors(mend: str) -> Iterator[None]:
    """Says in one line that memory is full, of a GPU or of the machine.

    Args:
        mend: how much was asked for, and what to lower.

    Raises:
        MachineError: it is so.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise MachineError(f"the GPU's memory is full {mend}") from None
    except MemoryError:
        raise MachineError(f"this machine's memory is full {mend}") from None
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):  # torch has no class for it
            raise MachineError(f"this machine's memory is full {mend}") from None
        raise
