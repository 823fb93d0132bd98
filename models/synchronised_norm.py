"""Batch norms whose statistics are those of all ranks, by one code on CPU and GPU."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from models.across_ranks import all_gather, num_ranks

# R ranks, C channels


class SynchronisedBatchNorm(TorchFunctionMode):
    """Within it every batch norm in training mode has the statistics of all ranks, whatever its class.

    It takes the place of the function that they all call, so modules, weights and their names stay as they
    are. torch's own SyncBatchNorm is another module, and runs on GPUs alone. In one process it does nothing.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,  # noqa: A002  # the names are those of torch.nn.functional.batch_norm
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training or num_ranks() == 1:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    scale = _ones(input) if weight is None else weight
    shift = torch.zeros_like(scale) if bias is None else bias
    mean, variance, num_values = _statistics(input.detach(), eps)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = variance * (num_values / max(num_values - 1, 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    normed: Tensor = _Normalise.apply(input, scale, shift, mean, variance, num_values, eps)
    return normed


def _statistics(pixels: Tensor, eps: float) -> tuple[Tensor, Tensor, int]:
    """Mean and variance, [C] in float32 or more, and how many values each is of.

    Of each rank's the means, and of these the mean and the variance: a mean of squares would lose digits.
    """
    ones, num_values = _ones(pixels), pixels.numel() // pixels.shape[1]
    # the kernel of the norm itself, which reads every layout and precision once; its scale says in which
    # precision the statistics are
    _, mean, inverse_std = torch.native_batch_norm(pixels, ones, ones, None, None, True, 0.0, eps)
    variance = (inverse_std.pow(-2) - eps).clamp(min=0)
    mean_RC, variance_RC = all_gather(torch.stack([mean, variance])[None]).unbind(1)
    variance = variance_RC.mean(0) + mean_RC.var(0, correction=0)
    return mean_RC.mean(0), variance, num_values * num_ranks()


def _ones(pixels: Tensor) -> Tensor:
    dtype = torch.promote_types(pixels.dtype, torch.float32)
    return torch.ones(pixels.shape[1], dtype=dtype, device=pixels.device)


class _Normalise(torch.autograd.Function):
    """A batch norm with given statistics, which are those of all ranks' inputs."""

    @staticmethod
    def forward(
        ctx: Any,
        pixels: Tensor,
        scale: Tensor,
        shift: Tensor,
        mean: Tensor,
        variance: Tensor,
        num_values: int,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(pixels, scale, mean, variance)
        ctx.num_values, ctx.eps = num_values, eps
        return torch.native_batch_norm(pixels, scale, shift, mean, variance, False, 0.0, eps)[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        pixels, scale, mean, variance = ctx.saved_tensors
        # as if the statistics were constants; then what their own gradients add
        through, of_scale, of_shift = torch.ops.aten.native_batch_norm_backward(
            *(gradient, pixels, scale, mean, variance, None, None, False, ctx.eps, [True, True, True])
        )
        sums_2C = torch.stack([of_shift, of_scale])
        dist.all_reduce(sums_2C)
        slope_C, offset_C = -sums_2C.flip(0) / ctx.num_values * scale * (variance + ctx.eps).rsqrt()
        # itself a batch norm: offset - slope times the normed inputs, rounded once
        of_statistics = torch.native_batch_norm(
            *(pixels, slope_C, offset_C, mean, variance, False, 0.0, ctx.eps)
        )[0]
        return through + of_statistics, of_scale, of_shift, None, None, None, None
