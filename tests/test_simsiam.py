"""SimSiam's loss against the paper in slow loops, and the stop-gradient by finite differences."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from models.objective import view_metrics
from models.simsiam import SimSiam, negative_cosine


def cosine_distance_of_the_paper(p: Tensor, z: Tensor) -> float:
    """D(p, z) of Algorithm 1, one image at a time."""
    total = 0.0
    for p_i, z_i in zip(p.detach().double().tolist(), z.detach().double().tolist(), strict=True):
        p_norm, z_norm = math.sqrt(sum(x * x for x in p_i)), math.sqrt(sum(x * x for x in z_i))
        total -= sum(a / p_norm * (b / z_norm) for a, b in zip(p_i, z_i, strict=True))
    return total / len(p)


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    p, z = torch.randn(2, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return p.requires_grad_(), z.requires_grad_()


def small_simsiam(*, predictor_lr_factor: float | None = 1.0) -> SimSiam:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten())
    return SimSiam(
        backbone,
        6 * 9,
        hidden_dim=16,
        output_dim=8,
        num_layers=3,
        predictor_dim=4,
        predictor_lr_factor=predictor_lr_factor,
    )


def small_views() -> list[Tensor]:
    return list(torch.rand(2, 12, 3, 8, 8, generator=torch.Generator().manual_seed(0)))


UNKNOWN = torch.full((12,), -1)


def test_the_negative_cosine_is_the_papers(pair: tuple[Tensor, Tensor]) -> None:
    assert negative_cosine(*pair).item() == pytest.approx(cosine_distance_of_the_paper(*pair), rel=1e-12)


def test_same_direction_costs_minus_one_and_the_opposite_costs_one(pair: tuple[Tensor, Tensor]) -> None:
    p, _ = pair
    assert negative_cosine(p, 3 * p).item() == pytest.approx(-1)
    assert negative_cosine(p, -p).item() == pytest.approx(1)


def test_a_shuffled_pairing_costs_more(pair: tuple[Tensor, Tensor]) -> None:
    p, _ = pair
    assert negative_cosine(p, p.roll(1, dims=0)) > negative_cosine(p, p) + 0.5


def test_predictions_and_targets_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        negative_cosine(torch.ones(3, 2), torch.ones(3, 4))


def test_the_gradient_reaches_the_prediction_and_never_the_target(pair: tuple[Tensor, Tensor]) -> None:
    p, z = pair
    slope_p, slope_z = torch.autograd.grad(negative_cosine(p, z), (p, z), allow_unused=True)
    assert slope_z is None
    step = 1e-6
    for row, column in [(0, 0), (3, 2), (6, 4)]:
        shift = torch.zeros_like(p)
        shift[row, column] = step
        rise = cosine_distance_of_the_paper(p + shift, z) - cosine_distance_of_the_paper(p - shift, z)
        assert slope_p[row, column].item() == pytest.approx(rise / (2 * step), abs=1e-8)
        # the loss does depend on the target: it is the gradient that is stopped
        rise = cosine_distance_of_the_paper(p, z + shift) - cosine_distance_of_the_paper(p, z - shift)
        assert abs(rise / (2 * step)) > 1e-4


def test_simsiam_is_its_parts_put_together_with_batch_statistics_of_one_view() -> None:
    simsiam, (view0, view1) = small_simsiam(), small_views()
    step = simsiam([view0, view1], UNKNOWN)
    features = simsiam.backbone(view0)
    z0, z1 = simsiam.projection(features), simsiam.projection(simsiam.backbone(view1))
    p0, p1 = simsiam.predictor(z0), simsiam.predictor(z1)
    expected = (cosine_distance_of_the_paper(p0, z1) + cosine_distance_of_the_paper(p1, z0)) / 2
    assert step.loss.item() == pytest.approx(expected, abs=1e-6)
    assert step.metrics == view_metrics(z0, z1)
    torch.testing.assert_close(step.features, features)
    joint = simsiam.projection(simsiam.backbone(torch.cat([view0, view1])))
    assert (joint[:12] - z0).abs().max() > 0.01  # one pass for both would be another method


def test_the_loss_is_symmetric_in_the_views() -> None:
    simsiam, (view0, view1) = small_simsiam(), small_views()
    there, back = simsiam([view0, view1], UNKNOWN).loss, simsiam([view1, view0], UNKNOWN).loss
    torch.testing.assert_close(there, back)


def test_the_backbones_gradient_is_the_finite_difference_with_the_targets_held_still() -> None:
    simsiam = small_simsiam().double()
    view0, view1 = (view.double() for view in small_views())
    weight = next(simsiam.backbone.parameters())

    def branches() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        z0, z1 = (simsiam.projection(simsiam.backbone(view)) for view in (view0, view1))
        return z0, z1, simsiam.predictor(z0), simsiam.predictor(z1)

    target0, target1, p0, p1 = branches()
    loss = negative_cosine(p0, target1) / 2 + negative_cosine(p1, target0) / 2
    (slope,) = torch.autograd.grad(loss, weight)

    def cost(*, targets_move: bool) -> float:
        with torch.no_grad():
            z0, z1, p0, p1 = branches()
        if not targets_move:
            z0, z1 = target0, target1
        return (cosine_distance_of_the_paper(p0, z1) + cosine_distance_of_the_paper(p1, z0)) / 2

    def difference(*, targets_move: bool, step: float = 1e-6) -> float:
        with torch.no_grad():
            weight[0, 0, 0, 0] += step
            above = cost(targets_move=targets_move)
            weight[0, 0, 0, 0] -= 2 * step
            below = cost(targets_move=targets_move)
            weight[0, 0, 0, 0] += step
        return (above - below) / (2 * step)

    still, moving = difference(targets_move=False), difference(targets_move=True)
    assert slope[0, 0, 0, 0].item() == pytest.approx(still, abs=1e-7)
    assert abs(still - moving) > 1e-3  # so a forgotten stop-gradient would have been seen
    simsiam.float()
    simsiam([view0.float(), view1.float()], UNKNOWN).loss.backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, slope.float(), atol=1e-4, rtol=1e-3)


def test_the_heads_are_those_of_the_authors_code() -> None:
    simsiam = small_simsiam()
    *_, output_norm = simsiam.projection
    assert isinstance(output_norm, nn.BatchNorm1d)
    assert not output_norm.affine
    assert [type(layer) for layer in simsiam.predictor] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    hidden, output = (layer for layer in simsiam.predictor if isinstance(layer, nn.Linear))
    assert (hidden.in_features, hidden.out_features, output.out_features) == (8, 4, 8)
    assert hidden.bias is None
    assert output.bias is not None


def test_the_predictor_alone_keeps_its_learning_rate_and_only_if_asked() -> None:
    simsiam = small_simsiam(predictor_lr_factor=10.0)
    assert {id(weight) for weight in simsiam.constant_lr_parameters()} == {
        id(weight) for name, weight in simsiam.named_parameters() if name.startswith("predictor.")
    }
    assert len(simsiam.constant_lr_parameters()) == 5  # two weights, a bias, a norm's scale and shift
    assert simsiam.constant_lr_factor == 10.0
    assert small_simsiam(predictor_lr_factor=None).constant_lr_parameters() == []


@pytest.mark.parametrize("num_views", [1, 3])
def test_other_than_two_views_are_refused(num_views: int) -> None:
    with pytest.raises(ValueError, match="two views"):
        small_simsiam()([small_views()[0]] * num_views, UNKNOWN)


def test_in_bfloat16_the_loss_is_still_computed_in_float32() -> None:
    simsiam, (view0, view1) = small_simsiam(), small_views()
    with torch.autocast("cpu", torch.bfloat16):
        z0, z1 = (simsiam.projection(simsiam.backbone(view)) for view in (view0, view1))
        p0, p1 = simsiam.predictor(z0), simsiam.predictor(z1)
        step = copy.deepcopy(simsiam)([view0, view1], UNKNOWN)
    assert step.loss.dtype == step.features.dtype == torch.float32
    expected = (cosine_distance_of_the_paper(p0, z1) + cosine_distance_of_the_paper(p1, z0)) / 2
    assert step.loss.item() == pytest.approx(expected, abs=1e-6)
