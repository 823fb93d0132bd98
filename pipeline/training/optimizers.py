"""The optimisers, and what the learning rate does from step to step."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.params.pretrain import Optimizer

REFERENCE_BATCH = 256  # images; the learning rates of the papers are for so many


def build_optimizer(parts: Mapping[str, Sequence[nn.Parameter]], params: Optimizer) -> torch.optim.Optimizer:
    """The optimiser that `params.name` asks for.

    Biases and norms, which have one dimension, do not decay, and LARS does not adapt their rate.

    Args:
        parts: what is trained, by the names under which `set_learning_rate` gives it its rates
            (`models.objective.Objective.parts`).
        params: of the optimiser.

    Source: LARS: You et al. 2017, arXiv:1708.03888, as timm has it; AdamW: Loshchilov and Hutter 2017,
    arXiv:1711.05101.
    """
    groups: list[dict[str, Any]] = []
    for part, weights in parts.items():
        for decays in (True, False):
            group = [weight for weight in weights if (weight.ndim > 1) == decays]
            if group:
                weight_decay = params.weight_decay if decays else 0.0
                groups.append({"params": group, "weight_decay": weight_decay, "part": part})
    match params.name:
        case "sgd":
            return torch.optim.SGD(groups, lr=params.lr, momentum=params.momentum)
        case "lars":
            from timm.optim.lars import Lars  # here: half a second, and only this one needs it

            # of itself timm adapts no rate where nothing decays, as with weight_decay 0
            for each in groups:
                each["always_adapt"] = all(weight.ndim > 1 for weight in each["params"])
            return Lars(groups, lr=params.lr, momentum=params.momentum, trust_coeff=params.trust_coefficient)
        case "adam":
            # torch's Adam adds the decay to the gradient, AdamW takes it off the weights
            return torch.optim.Adam(groups, lr=params.lr)
        case "adamw":
            return torch.optim.AdamW(groups, lr=params.lr)


def set_learning_rate(optimizer: torch.optim.Optimizer, lrs: Mapping[str, float]) -> None:
    """Gives each group the rate of its part in this step."""
    for group in optimizer.param_groups:
        group["lr"] = lrs[group["part"]]


def peak_learning_rate(lr: float, params: Optimizer, batch_size: int) -> float:
    """`lr`, or as much of it as the batch is of 256 images where `params.scale_lr` says so.

    Source: Goyal et al. 2017, arXiv:1706.02677, the linear scaling rule, as SimCLR and SimSiam use it.
    """
    return lr * batch_size / REFERENCE_BATCH if params.scale_lr else lr


def learning_rate(params: Optimizer, peak: float, step: int, num_steps: int, warmup_steps: int) -> float:
    """Linear warm-up to the peak, then a cosine that reaches zero after the last step, or the peak.

    Args:
        params: of them the schedule.
        peak: of `peak_learning_rate`.
        step: of the optimiser, from 0.
        num_steps: of the whole run.
        warmup_steps: of them.

    Source: Loshchilov and Hutter 2016, arXiv:1608.03983, without restarts; warm-up as in SimCLR.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if params.schedule == "constant":
        return peak
    progress = (step - warmup_steps) / (num_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def clip_gradient(module: nn.Module, max_norm: float | None) -> Tensor | None:
    """Shortens the gradient of all weights together to this norm, where it is longer."""
    if max_norm is None:
        return None
    return torch.nn.utils.clip_grad_norm_(module.parameters(), max_norm)
