"""L-BFGS on many problems side by side, each with its own steps, on any device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# S sets of rows, R strengths of regularisation of each, K classes, D feature

_TOLERANCE = 1e-4  # largest entry of the gradient at which a fit has converged; scikit-learn's `tol`
_MEMORY = 10  # steps that L-BFGS remembers; scikit-learn's, by way of SciPy's `maxcor`
_MOST_TRIALS = 20  # of a step's length; as SciPy's `maxls`
_SLOPE_KEPT = 0.8  # a step is too long that ends as steep uphill; Hager and Zhang 2005, approximate Wolfe
_NOISE = 1e-7  # of a loss in float32, relative


@dataclass(frozen=True)
class Curvature:
    """Inverses of a Hessian by the strength of the penalty.

    Attributes:
        inverses: [U, D, D].
        strength_of: which of them is each problem's, [S, R].
    """

    inverses: Tensor
    strength_of: Tensor

    def unbend(self, gradient: Tensor) -> Tensor:
        """Newton's step were the loss as curved everywhere, [S, R, K, D] likewise."""
        found = torch.empty_like(gradient)
        for number, inverse in enumerate(self.inverses):
            of_it = self.strength_of == number
            found[of_it] = gradient[of_it] @ inverse
        return found


class Problems(Protocol):
    """What is minimised: S x R losses, each of its own weights."""

    def start(self) -> Tensor:
        """The first weights, [S, R, K, D]."""
        ...

    def curvature_at_start(self) -> Curvature | None:
        """What is known of the curvature before the first step."""
        ...

    def __call__(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Losses, float64 [S, R], and their gradients, [S, R, K, D]."""
        ...


def minimize(problems: Problems, max_iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [S, R, K, D], the steps that each took and whether its gradient vanished, [S, R].

    Source: Liu and Nocedal 1989, On the limited memory BFGS method.
    """
    weights = problems.start()
    curvature = problems.curvature_at_start()
    loss, gradient = problems(weights)
    past: list[tuple[Tensor, Tensor, Tensor]] = []
    iterations = torch.zeros_like(loss, dtype=torch.int64)
    is_stuck = torch.zeros_like(loss, dtype=torch.bool)
    for _ in range(max_iterations):
        is_going = (gradient.abs().amax(dim=(2, 3)) > _TOLERANCE) & ~is_stuck
        if not is_going.any():
            break
        direction = _each(is_going.float()) * _direction(gradient, past, curvature)
        before, gradient_before = weights, gradient
        weights, loss, gradient, has_moved = _step(problems, weights, loss, gradient, direction)
        is_stuck |= is_going & ~has_moved
        iterations += is_going
        step, change = weights - before, gradient - gradient_before
        bend = dot(step, change)
        # a problem that stands still, or whose change drowned in rounding, adds nothing to its memory
        inverse = torch.where(bend > 1e-12, 1 / bend.clamp(min=1e-12), 0)
        past = [*past, (step, change, inverse)][-_MEMORY:]
    return weights, iterations, gradient.abs().amax(dim=(2, 3)) <= _TOLERANCE


def _direction(
    gradient: Tensor, past: Sequence[tuple[Tensor, Tensor, Tensor]], curvature: Curvature | None
) -> Tensor:
    """The way down, by the two loops of L-BFGS around what is known of the curvature: [S, R, K, D]."""
    found, shares = gradient.clone(), []
    for step, change, inverse in reversed(past):
        share = inverse * dot(step, found)
        found -= _each(share) * change
        shares.append(share)
    if curvature is None:
        found *= _each(_first_scale(gradient, past))
    else:
        found = curvature.unbend(found)
    for (step, change, inverse), share in zip(past, reversed(shares), strict=True):
        found += _each(share - inverse * dot(change, found)) * step
    return -found


def _first_scale(gradient: Tensor, past: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """How far a gradient reaches, [S, R]: by the last step that told; at first a step of length 1 at most."""
    scale = 1 / dot(gradient, gradient).sqrt().clamp(min=1)
    for _, change, inverse in past:
        scale = torch.where(inverse > 0, 1 / (inverse * dot(change, change)).clamp(min=1e-30), scale)
    return scale


def _step(
    problems: Problems, weights: Tensor, loss: Tensor, gradient: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each problem as far as its loss falls along its direction: weights, loss, gradient, if it moved."""
    slope = dot(gradient, direction)
    length = torch.ones_like(loss)
    is_waiting = slope < 0
    moved = weights.clone(), loss.clone(), gradient.clone()
    for _ in range(_MOST_TRIALS):
        if not is_waiting.any():
            break
        trial = weights + _each(length) * direction
        trial_loss, trial_gradient = problems(trial)
        trial_slope = dot(trial_gradient, direction)
        is_lower = trial_loss <= loss + _NOISE * loss.abs()
        accepted = is_waiting & is_lower & (trial_slope <= _SLOPE_KEPT * slope.abs())
        for kept, tried in zip(moved, (trial, trial_loss, trial_gradient), strict=True):
            kept[accepted] = tried[accepted]
        is_waiting &= ~accepted
        # where a straight line through both slopes is level
        level = slope.abs() / (slope.abs() + trial_slope.clamp(min=0))
        length = torch.where(is_waiting, length * level.clamp(0.1, 0.5), length)
    return *moved, (slope < 0) & ~is_waiting


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Of every problem's own, float64 [S, R]."""
    return (a * b).sum(dim=(2, 3), dtype=torch.float64)


def _each(values: Tensor) -> Tensor:
    """[S, R] as float32 [S, R, 1, 1]."""
    return values.float()[:, :, None, None]
