"""Multinomial logistic regressions, many at once, in float32, on any device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.evaluation.probes.lbfgs import Curvature, dot, minimize

# S sets of rows, R strengths of regularisation of each, N rows of a set, K classes,
# D feature, the last of them a one for the intercept

_ROWS_A_FEATURE = 4  # that a covariance is taken from, which need not be exact
_SMALLEST_CURVATURE = 1e-4  # relative to the mean one: what rounding in float32 leaves of none
# Both passes over a block of rows find it in the cache: of 32,768 x 2,881, blocks of 6 and 24 MB took 0.14
# and 0.15 s for three fits of ten classes, 377 MB at once 0.25 s.
_BLOCK_BYTES = 16 << 20


@dataclass(frozen=True)
class Regressions:
    """Fitted regressions, of each set of rows one for each strength.

    Attributes:
        mean: of the set's features, [S, 1, D - 1].
        scale: their standard deviation, likewise; 1 where it is nothing.
        weights: of standardised features, [S, R, K, D]; the last are the intercepts.
        iterations: steps that each took, int64 [S, R].
        converged: whether its gradient vanished, before the steps were used up, bool [S, R].
    """

    mean: Tensor
    scale: Tensor
    weights: Tensor
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]

    def scores(
        self, features: NDArray[np.float32], of_set: int
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Each block of rows, and its logits by the regressions of one set: [R, rows, K]."""
        weights = self.weights[of_set]
        for rows in _blocks(len(features), max(features.shape[1], weights[:, :, 0].numel())):
            block = torch.tensor(features[rows], device=weights.device)
            block = (block - self.mean[of_set]) / self.scale[of_set]
            yield rows, (block @ weights[..., :-1].mT + weights[..., None, :, -1]).cpu().numpy()


def fit_logistic(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    sets: Sequence[NDArray[np.int64]],
    C: NDArray[np.float64],
    max_iterations: int,
    device: torch.device,
) -> Regressions:
    """Logistic regressions on standardised features, with scikit-learn's objective.

    Each minimises C times the sum of the cross entropies plus half the squared weights, the intercepts'
    aside, on features of mean 0 and variance 1 in its own set. With two classes scikit-learn has one row of
    weights where there are two here: the penalty is doubled, which makes the two the same. All of them are
    minimised together: one pass over a set serves every C.

    Beside the features this holds one copy of the rows of all sets, 25 times the weights and, where a set has
    as many rows as there are features, a matrix [D, D] for each strength.

    Of a set of fewer rows than features the weights lie in the span of its rows, since the penalty draws them
    out of every other direction: they are sought there. Three sets of 200 x 1,280 of 200 classes took 0.65 s
    so, and 4.8 s without (three strengths, one core).

    Args:
        features: [M, D - 1].
        labels: from 0 to K - 1, [M].
        sets: rows that are learned from, as many in each; every class is among them.
        C: inverse strengths of the regularisation, [S, R].
        max_iterations: steps at most.
        device: to compute on.

    Source: the steps, Liu and Nocedal 1989, On the limited memory BFGS method.
    """
    num_classes = int(labels.max()) + 1
    rows = torch.empty(len(sets), len(sets[0]), features.shape[1] + 1, device=device)
    for standing, chosen in zip(rows, sets, strict=True):
        for block in _blocks(len(chosen), features.shape[1]):
            standing[block, :-1] = torch.from_numpy(features[chosen[block]]).to(device)
    rows[..., -1] = 1
    mean, scale = _standardize(rows)
    answers = torch.from_numpy(labels[np.stack(sets)]).to(device)
    penalty = torch.from_numpy((2.0 if num_classes == 2 else 1.0) / (C * len(sets[0]))).to(device)
    rows, axes = _in_their_span(rows)
    problems = _Problems(rows, answers, penalty.float(), num_classes)
    weights, iterations, converged = minimize(problems, max_iterations)
    if axes is not None:
        weights = torch.cat([weights[..., :-1] @ axes[:, None].mT, weights[..., -1:]], dim=3)
    return Regressions(mean, scale, weights, iterations.cpu().numpy(), converged.cpu().numpy())


def _in_their_span(rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """Sets of fewer rows than features by N axes, [S, N, N + 1], and the axes, [S, D - 1, N]; others stay."""
    if rows.shape[1] >= rows.shape[2] - 1:
        return rows, None
    axes, coordinates = torch.linalg.qr(rows[..., :-1].mT)
    return torch.cat([coordinates.mT, rows[..., -1:]], dim=2), axes


def _blocks(num_rows: int, width: int) -> Iterator[slice]:
    at_once = max(1, _BLOCK_BYTES // (4 * width))
    return (slice(start, start + at_once) for start in range(0, num_rows, at_once))


def _standardize(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Takes mean and deviation out of all features but the last, in place; returns them, [S, 1, D - 1]."""
    num_sets, num_rows, width = rows.shape
    features = rows[..., :-1]
    blocks = list(_blocks(num_rows, num_sets * width))
    mean, variance = torch.zeros(2, num_sets, 1, width - 1, dtype=torch.float64, device=rows.device)
    for block in blocks:
        mean += features[:, block].sum(dim=1, keepdim=True, dtype=torch.float64) / num_rows
    for block in blocks:
        variance += (features[:, block] - mean).square().sum(dim=1, keepdim=True) / num_rows
    scale = variance.sqrt()
    # as scikit-learn: what rounding alone has made of a constant is no deviation
    scale[scale <= num_rows * mean.abs() * torch.finfo(torch.float64).eps] = 1
    mean, scale = mean.float(), scale.float()
    for block in blocks:
        features[:, block] = (features[:, block] - mean) / scale
    return mean, scale


@dataclass(frozen=True)
class _Problems:
    """What is minimised: the mean cross entropy and the penalty of the weights.

    Attributes:
        rows: standardised features and a one, [S, N, D].
        labels: [S, N].
        penalty: of half the squared weights, [S, R].
        num_classes: K.
    """

    rows: Tensor
    labels: Tensor
    penalty: Tensor
    num_classes: int

    def start(self) -> Tensor:
        num_strengths, width = self.penalty.shape[1], self.rows.shape[2]
        return self.rows.new_zeros(len(self.rows), num_strengths, self.num_classes, width)

    def curvature_at_start(self) -> Curvature | None:
        """What L-BFGS would need many steps to learn.

        Where every class is as likely the Hessian is the same for each: (1 - 1 / K) / K times the features'
        covariance, and the penalty. With its inverse 3,597 x 1,280 took 16, 29 and 46 steps (C 0.01, 0.1
        and 1) in place of 134, 178 and 185, and half the time; 50,000 x 2,880 took 28 to 39 steps and 15 s,
        where minutes had not been enough. The covariance of all sets together serves each, which are draws
        from the same images: five of 4,000 x 2,880 took 26 to 41 steps with it and 11 s, where with each its
        own they took 20 to 41 and 22 s, most of it inverting. None where there are fewer rows than
        features: steps cost little.
        """
        _, num_rows, width = self.rows.shape
        if num_rows < width:
            return None
        rows = self.rows.flatten(0, 1)
        rows = rows[:: max(1, len(rows) // (_ROWS_A_FEATURE * width))]
        covariance = rows.new_zeros(width, width)
        for block in _blocks(len(rows), width):
            covariance += rows[block].T @ rows[block] / len(rows)
        hessian = (1 - 1 / self.num_classes) / self.num_classes * covariance.double()
        floor = _SMALLEST_CURVATURE * hessian.diagonal().mean()
        strengths, strength_of = torch.unique(self.penalty, return_inverse=True)
        inverses = rows.new_empty(len(strengths), width, width)
        for inverse, penalty in zip(inverses, strengths, strict=True):
            whole = hessian.clone()
            whole.diagonal().add_(floor + penalty)
            inverse[:] = torch.cholesky_inverse(torch.linalg.cholesky_ex(whole).L)
        return Curvature(inverses, strength_of)

    def __call__(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Losses, float64 [S, R], and their gradients, [S, R, K, D]."""
        num_sets, num_strengths, num_classes, width = weights.shape
        num_rows, num_columns = self.rows.shape[1], num_strengths * num_classes
        columns = weights.reshape(num_sets, num_columns, width)
        loss = torch.zeros(num_sets, num_strengths, dtype=torch.float64, device=weights.device)
        gradient = torch.zeros_like(columns)
        classes = torch.arange(num_classes, device=weights.device)
        for block in _blocks(num_rows, num_sets * max(width, num_columns)):
            x = self.rows[:, block]
            is_label = (self.labels[:, block, None] == classes)[:, :, None]  # [S, rows, 1, K]
            logits = (x @ columns.mT).view(num_sets, -1, num_strengths, num_classes)
            log_sum = logits.logsumexp(dim=3, keepdim=True)
            own = logits.masked_fill(~is_label, 0).sum(dim=3, keepdim=True)
            loss += (log_sum - own).double().sum(dim=(1, 3))
            errors = (logits - log_sum).exp_() - is_label.float()
            gradient += errors.flatten(2).mT @ x
        decayed = weights.clone()
        decayed[..., -1] = 0  # the intercepts
        penalty = self.penalty[:, :, None, None]
        loss = loss / num_rows + 0.5 * self.penalty * dot(decayed, decayed)
        return loss, gradient.view_as(weights) / num_rows + penalty * decayed
