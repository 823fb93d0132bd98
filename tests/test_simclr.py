"""SimCLR's loss against the paper in slow loops, closed forms, and what it must catch."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.heads import projection_mlp
from models.objective import view_metrics
from models.simclr import SimCLR, multi_view_nt_xent, nt_xent


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


def multi_view_of_slow_loops(z: list[Tensor], temperature: float) -> float:
    """Each ordered pair of views of an image: the positive against all views of all the other images."""
    z = [F.normalize(view.detach().double(), dim=1) for view in z]
    num_views, num_images = len(z), len(z[0])
    losses = []
    for v, w, i in itertools.product(range(num_views), range(num_views), range(num_images)):
        if v == w:
            continue
        positive = math.exp(float(z[v][i] @ z[w][i]) / temperature)
        negatives = [
            math.exp(float(z[v][i] @ z[u][k]) / temperature)
            for u, k in itertools.product(range(num_views), range(num_images))
            if k != i
        ]
        losses.append(-math.log(positive / (positive + sum(negatives))))
    return sum(losses) / len(losses)


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


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
@pytest.mark.parametrize("num_views", [2, 3, 4])
def test_more_views_cost_what_slow_loops_say(num_views: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(6, 5, generator=generator)
    z = [image + torch.randn(6, 5, generator=generator) for _ in range(num_views)]
    expected = multi_view_of_slow_loops(z, temperature)
    assert multi_view_nt_xent(z, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_of_two_views_the_general_loss_is_nt_xent_and_so_is_its_gradient() -> None:
    z = torch.randn(2, 9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    general, paper = multi_view_nt_xent(list(z), 0.2), nt_xent(z[0], z[1], 0.2)
    assert general.item() == pytest.approx(paper.item(), rel=1e-12)
    for slope, expected in zip(torch.autograd.grad(general, z), torch.autograd.grad(paper, z), strict=True):
        torch.testing.assert_close(slope, expected)


def test_the_order_of_the_views_does_not_count_but_a_shuffled_view_does() -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(8, 5, generator=generator)
    z0, z1, z2 = (image + 0.3 * torch.randn(8, 5, generator=generator) for _ in range(3))
    loss = multi_view_nt_xent([z0, z1, z2], 0.2)
    torch.testing.assert_close(multi_view_nt_xent([z2, z0, z1], 0.2), loss)
    assert multi_view_nt_xent([z0, z1, z2.roll(1, dims=0)], 0.2) > loss + 1


@pytest.mark.parametrize("num_views", [2, 3, 5])
def test_a_collapse_of_many_views_costs_the_logarithm_of_the_number_of_candidates(num_views: int) -> None:
    expected = math.log(1 + num_views * (8 - 1))
    assert multi_view_nt_xent([torch.ones(8, 4)] * num_views, 0.1).item() == pytest.approx(expected, rel=1e-6)


def test_one_view_is_refused() -> None:
    with pytest.raises(ValueError, match="another view"):
        multi_view_nt_xent([torch.ones(3, 2)], 0.1)


def small_simclr(temperature: float = 0.2) -> SimCLR:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten())
    return SimCLR(backbone, 6 * 9, hidden_dim=16, output_dim=8, num_layers=2, temperature=temperature)


@pytest.mark.parametrize("num_views", [2, 3])
def test_simclr_is_its_parts_put_together(num_views: int) -> None:
    simclr = small_simclr()
    views = list(torch.rand(num_views, 6, 3, 8, 8))
    step = simclr(views, torch.full((6,), -1))
    features = simclr.backbone(torch.cat(views))  # one pass: the batch statistics span the views
    z = simclr.projection(features).chunk(num_views)
    assert step.loss.item() == pytest.approx(multi_view_of_slow_loops(list(z), 0.2), rel=1e-5)
    if num_views == 2:
        assert step.loss.item() == pytest.approx(nt_xent_of_the_paper(*z, 0.2), rel=1e-5)
    assert step.metrics == view_metrics(z[0], z[1])
    torch.testing.assert_close(step.features, features[:6])


def test_the_projection_head_draws_its_weights_in_the_order_it_always_did() -> None:
    layers = [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d]
    assert [type(layer) for layer in projection_mlp(6, 5, 4, num_layers=2)] == layers
    torch.manual_seed(0)
    head = projection_mlp(6, 5, 4, num_layers=2)
    torch.manual_seed(0)
    assert torch.equal(head[0].weight, nn.Linear(6, 5, bias=False).weight)
    assert torch.equal(head[3].weight, nn.Linear(5, 4, bias=False).weight)


@pytest.mark.parametrize(("num_layers", "widths"), [(1, [4]), (2, [5, 4]), (3, [5, 5, 4])])
def test_a_projection_head_has_the_layers_asked_for_and_a_norm_after_each(
    num_layers: int, widths: list[int]
) -> None:
    head = projection_mlp(6, 5, 4, num_layers)
    assert [layer.out_features for layer in head if isinstance(layer, nn.Linear)] == widths
    assert [layer.num_features for layer in head if isinstance(layer, nn.BatchNorm1d)] == widths
    assert not any(layer.bias is not None for layer in head if isinstance(layer, nn.Linear))
    assert isinstance(head[-1], nn.BatchNorm1d)


def test_a_projection_head_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        projection_mlp(6, 5, 4, num_layers=0)


def test_in_bfloat16_the_loss_is_still_computed_in_float32() -> None:
    simclr = small_simclr(temperature=0.05)
    views = list(torch.rand(2, 16, 3, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        z = simclr.projection(simclr.backbone(torch.cat(views)))
        step = simclr(views, torch.full((16,), -1))
    assert step.loss.dtype == step.features.dtype == torch.float32
    assert step.loss.item() == pytest.approx(nt_xent_of_the_paper(*z.chunk(2), 0.05), rel=1e-4)
