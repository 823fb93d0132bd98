"""SimCLR's loss against the paper in slow loops, closed forms, and what it must catch."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones import build_backbone
from models.objective import contrastive_accuracy, projection_std
from models.simclr import SimCLR, nt_xent


def nt_xent_of_the_paper(z0: Tensor, z1: Tensor, temperature: float) -> float:
    """Algorithm 1 of arXiv:2002.05709 as it is written: interleaved views, one pair at a time."""
    num_images = len(z0)
    z0, z1 = z0.detach().double(), z1.detach().double()
    z = [row for pair in zip(z0, z1, strict=True) for row in pair]

    def s(i: int, j: int) -> float:
        return float(z[i] @ z[j] / (z[i].norm() * z[j].norm()))

    def loss(i: int, j: int) -> float:
        others = [math.exp(s(i, k) / temperature) for k in range(2 * num_images) if k != i]
        return -math.log(math.exp(s(i, j) / temperature) / sum(others))

    total = sum(loss(2 * k, 2 * k + 1) + loss(2 * k + 1, 2 * k) for k in range(num_images))
    return total / (2 * num_images)


@pytest.fixture
def projections() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z0 = torch.randn(9, 5, generator=generator)
    return z0, z0 + torch.randn(9, 5, generator=generator)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_nt_xent_is_the_papers_algorithm(projections: tuple[Tensor, Tensor], temperature: float) -> None:
    z0, z1 = projections
    assert nt_xent(z0, z1, temperature).item() == pytest.approx(
        nt_xent_of_the_paper(z0, z1, temperature), rel=1e-5
    )


@pytest.mark.parametrize("num_images", [2, 5, 64])
def test_orthogonal_images_with_identical_pairs_cost_the_closed_form(num_images: int) -> None:
    z = torch.eye(64)[:num_images]
    # each anchor: its pair at cosine 1, the 2B - 2 views of the other images at cosine 0
    expected = math.log(math.exp(1 / 0.5) + 2 * num_images - 2) - 1 / 0.5
    assert nt_xent(z, z, 0.5).item() == pytest.approx(expected, rel=1e-6)


def test_a_collapse_costs_the_logarithm_of_the_number_of_candidates() -> None:
    z = torch.ones(8, 4)
    assert nt_xent(z, z, 0.1).item() == pytest.approx(math.log(2 * 8 - 1), rel=1e-6)


def test_the_norm_of_a_projection_does_not_count(projections: tuple[Tensor, Tensor]) -> None:
    z0, z1 = projections
    assert nt_xent(z0 * 7, z1 / 3, 0.2).item() == pytest.approx(nt_xent(z0, z1, 0.2).item(), rel=1e-5)


def test_a_shuffled_pairing_costs_more(projections: tuple[Tensor, Tensor]) -> None:
    z0, z1 = projections
    assert nt_xent(z0, z1.roll(1, dims=0), 0.2) > nt_xent(z0, z1, 0.2) + 1


def test_the_gradient_is_that_of_the_papers_algorithm(projections: tuple[Tensor, Tensor]) -> None:
    z0, z1 = projections
    z0 = z0.double().requires_grad_()
    nt_xent(z0, z1.double(), 0.3).backward()  # type: ignore[no-untyped-call]
    step = 1e-5
    for row, column in [(0, 0), (3, 2), (8, 4)]:
        shift = torch.zeros_like(z0)
        shift[row, column] = step
        with torch.no_grad():
            slope = nt_xent_of_the_paper(z0 + shift, z1, 0.3) - nt_xent_of_the_paper(z0 - shift, z1, 0.3)
        assert z0.grad is not None
        assert z0.grad[row, column].item() == pytest.approx(slope / (2 * step), abs=1e-6)


@pytest.mark.parametrize(
    ("z0", "z1", "temperature", "rule"),
    [
        (torch.ones(3, 2), torch.ones(4, 2), 0.1, "one shape"),
        (torch.ones(1, 2), torch.ones(1, 2), 0.1, "at least 2"),
        (torch.ones(3, 2), torch.ones(3, 2), 0.0, "positive"),
    ],
)
def test_what_has_no_loss_is_refused(z0: Tensor, z1: Tensor, temperature: float, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        nt_xent(z0, z1, temperature)


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


def test_the_spread_tells_a_collapse_from_a_whole_sphere() -> None:
    assert projection_std(torch.ones(100, 64)).item() == pytest.approx(0, abs=1e-6)
    sphere = torch.randn(10_000, 64, generator=torch.Generator().manual_seed(0))
    assert projection_std(sphere).item() == pytest.approx(1 / math.sqrt(64), rel=0.01)


def test_simclr_is_its_parts_put_together() -> None:
    torch.manual_seed(0)
    backbone, feature_dim = build_backbone("resnet20", 4)
    simclr = SimCLR(backbone, feature_dim, hidden_dim=16, output_dim=8, temperature=0.2)
    view0, view1 = torch.rand(6, 3, 16, 16), torch.rand(6, 3, 16, 16)
    loss, metrics = simclr(view0, view1)
    z0, z1 = simclr.projection(backbone(torch.cat([view0, view1]))).chunk(2)
    assert loss.item() == pytest.approx(nt_xent_of_the_paper(z0, z1, 0.2), rel=1e-5)
    assert set(metrics) == {"top1", "top5", "projection_std"}
    assert not any(value.requires_grad for value in metrics.values())


def test_the_gradient_reaches_every_weight_of_the_backbone() -> None:
    torch.manual_seed(0)
    backbone, feature_dim = build_backbone("resnet20", 4)
    simclr = SimCLR(backbone, feature_dim, hidden_dim=16, output_dim=8, temperature=0.2)
    simclr(torch.rand(6, 3, 16, 16), torch.rand(6, 3, 16, 16))[0].backward()
    for name, weight in backbone.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_the_loss_falls_on_a_fixed_batch() -> None:
    torch.manual_seed(0)
    backbone, feature_dim = build_backbone("resnet20", 4)
    simclr = SimCLR(backbone, feature_dim, hidden_dim=16, output_dim=8, temperature=0.2)
    optimizer = torch.optim.SGD(simclr.parameters(), lr=0.1, momentum=0.9)
    view0, view1 = torch.rand(16, 3, 16, 16), torch.rand(16, 3, 16, 16)
    losses = []
    for _ in range(20):
        loss, _ = simclr(view0, view1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # chance is log(31) = 3.43
    assert losses[-1] < 0.7 * losses[0]


def test_in_bfloat16_the_loss_is_still_computed_in_float32() -> None:
    torch.manual_seed(0)
    backbone, feature_dim = build_backbone("resnet20", 4)
    simclr = SimCLR(backbone, feature_dim, hidden_dim=16, output_dim=8, temperature=0.05)
    view0, view1 = torch.rand(16, 3, 16, 16), torch.rand(16, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        z = simclr.projection(backbone(torch.cat([view0, view1])))
        loss, _ = simclr(view0, view1)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(nt_xent_of_the_paper(*z.chunk(2), 0.05), rel=1e-4)
