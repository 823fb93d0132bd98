"""The monitors against slow loops, closed forms, and the collapses that they must tell apart."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.objective import (
    alignment,
    contrastive_accuracy,
    correlation_accuracy,
    projection_std,
    view_metrics,
)


@pytest.fixture
def projections() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z0 = torch.randn(9, 5, generator=generator)
    return z0, z0 + torch.randn(9, 5, generator=generator)


@pytest.fixture
def sphere() -> Tensor:
    return torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))


def test_contrastive_accuracy_counts_as_slow_loops_do(projections: tuple[Tensor, Tensor]) -> None:
    z0, z1 = projections
    z = F.normalize(torch.cat([z0, z1]), dim=1)
    ranks = []
    for anchor in range(18):
        pair = (anchor + 9) % 18
        others = [k for k in range(18) if k not in (anchor, pair)]
        ranks.append(sum(bool(z[anchor] @ z[k] > z[anchor] @ z[pair]) for k in others))
    accuracy = contrastive_accuracy(z0, z1)
    assert accuracy["top1"].item() == pytest.approx(sum(rank < 1 for rank in ranks) / 18)
    assert accuracy["top5"].item() == pytest.approx(sum(rank < 5 for rank in ranks) / 18)
    assert 0 < accuracy["top1"] < accuracy["top5"] < 1  # else the comparison would say nothing


def test_correlation_accuracy_counts_as_slow_loops_do(projections: tuple[Tensor, Tensor]) -> None:
    generator = torch.Generator().manual_seed(3)
    noisy = [z + 2 * torch.randn(9, 5, generator=generator) for z in projections]
    z0, z1 = (z.double().T.tolist() for z in noisy)  # a list for each dimension

    def correlation(x: list[float], y: list[float]) -> float:
        mean_x, mean_y = sum(x) / 9, sum(y) / 9
        std_x = math.sqrt(sum((value - mean_x) ** 2 for value in x) / 9)
        std_y = math.sqrt(sum((value - mean_y) ** 2 for value in y) / 9)
        return sum((a - mean_x) / std_x * (b - mean_y) / std_y for a, b in zip(x, y, strict=True)) / 9

    rows = [[correlation(x, y) for y in z1] for x in z0]
    columns = [list(column) for column in zip(*rows, strict=True)]
    hits = [line.index(max(line)) == d for lines in (rows, columns) for d, line in enumerate(lines)]
    assert 0 < sum(hits) < 10  # else the comparison would say nothing
    assert correlation_accuracy(*noisy).item() == pytest.approx(sum(hits) / 10)


def test_correlation_accuracy_tells_one_dimension_from_many(sphere: Tensor) -> None:
    scale = torch.linspace(0.01, 3, 64)  # neither it nor a shift counts
    assert correlation_accuracy(sphere, sphere * scale + 1).item() == 1
    assert correlation_accuracy(sphere, sphere.roll(1, dims=1)).item() == 0
    assert correlation_accuracy(sphere[:, :1].repeat(1, 64), sphere).item() < 0.05


def test_correlation_accuracy_of_a_collapse_is_chance_and_no_nan() -> None:
    assert correlation_accuracy(torch.ones(8, 4), torch.ones(8, 4)).item() == pytest.approx(1 / 4)


def test_alignment_is_the_papers_mean_squared_distance(projections: tuple[Tensor, Tensor]) -> None:
    distances = []
    for x, y in zip(*projections, strict=True):
        distances.append(float((x / x.norm() - y / y.norm()).norm() ** 2))
    assert alignment(*projections).item() == pytest.approx(sum(distances) / 9, rel=1e-5)


def test_alignment_spans_identical_to_opposite_views(sphere: Tensor) -> None:
    assert alignment(sphere, sphere * 5).item() == pytest.approx(0, abs=1e-6)
    assert alignment(sphere, -sphere).item() == pytest.approx(4, rel=1e-5)


def test_the_spread_tells_a_collapse_from_a_whole_sphere(sphere: Tensor) -> None:
    assert projection_std(torch.ones(100, 64)).item() == pytest.approx(0, abs=1e-6)
    assert projection_std(sphere).item() == pytest.approx(1 / math.sqrt(64), rel=0.01)


def test_view_metrics_bundles_the_monitors_in_float32_without_gradient(
    projections: tuple[Tensor, Tensor],
) -> None:
    z0, z1 = (z.bfloat16().requires_grad_() for z in projections)
    metrics = view_metrics(z0, z1)
    assert list(metrics) == ["top1", "top5", "correlation_accuracy", "alignment", "projection_std"]
    for name, value in metrics.items():
        assert value.shape == (), name
        assert value.dtype == torch.float32, name
        assert not value.requires_grad, name
    assert metrics["projection_std"] == projection_std(torch.cat([z0, z1]))
