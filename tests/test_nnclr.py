"""NNCLR's two losses against slow loops, its queue against a deque, its gradients by finite differences."""

import collections
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nnclr import NNCLR, SupportSet, info_nce, keras_loss, paper_loss
from models.objective import view_metrics


def l_of_the_paper(neighbours: Tensor, found: Tensor, temperature: float) -> float:
    """`L` of Algorithm 1, one image at a time; both are normalised here."""
    total = 0.0
    for i, anchor in enumerate(neighbours.detach().double()):
        logits = [
            float(anchor @ other / (anchor.norm() * other.norm())) / temperature
            for other in found.detach().double()
        ]
        total -= logits[i] - math.log(sum(math.exp(logit) for logit in logits))
    return total / len(neighbours)


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1)


def slope_of(cost, tensor: Tensor, row: int, column: int, step: float = 1e-6) -> float:  # type: ignore[no-untyped-def]
    shift = torch.zeros_like(tensor)
    shift[row, column] = step
    with torch.no_grad():
        return float(cost(tensor + shift) - cost(tensor - shift)) / (2 * step)


def small_nnclr(variant: str = "paper", **changes: int) -> NNCLR:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten())
    section = {"hidden_dim": 16, "output_dim": 8, "num_layers": 3, "predictor_dim": 12, "queue_size": 30}
    return NNCLR(backbone, 6 * 9, temperature=0.2, variant=variant, **(section | changes))  # type: ignore[arg-type]


def small_views() -> list[Tensor]:
    return list(torch.rand(2, 12, 3, 8, 8, generator=torch.Generator().manual_seed(0)))


UNKNOWN = torch.full((12,), -1)


# The losses


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_the_papers_variant_is_algorithm_1(temperature: float) -> None:
    p0, p1, nn0, nn1 = unit(4, 9, 5)
    expected = l_of_the_paper(nn0, p1, temperature) / 2 + l_of_the_paper(nn1, p0, temperature) / 2
    assert paper_loss(p0, p1, nn0, nn1, temperature).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_the_keras_variant_is_the_mean_of_the_examples_four_terms(temperature: float) -> None:
    z0, z1, nn0, nn1 = unit(4, 9, 5)
    terms = [(nn0, z1), (z1, nn0), (nn1, z0), (z0, nn1)]
    expected = sum(l_of_the_paper(anchors, found, temperature) for anchors, found in terms) / 4
    assert keras_loss(z0, z1, nn0, nn1, temperature).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("loss", [paper_loss, keras_loss])
def test_orthogonal_images_cost_the_closed_form(loss) -> None:  # type: ignore[no-untyped-def]
    z = torch.eye(16)[:6]
    # the positive at cosine 1, the B - 1 others at cosine 0
    expected = math.log(math.exp(1 / 0.5) + 5) - 1 / 0.5
    assert loss(z, z, z, z, 0.5).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", [paper_loss, keras_loss])
def test_a_collapse_costs_the_logarithm_of_the_batch(loss) -> None:  # type: ignore[no-untyped-def]
    z = F.normalize(torch.ones(8, 4), dim=1)
    assert loss(z, z, z, z, 0.1).item() == pytest.approx(math.log(8), rel=1e-5)


@pytest.mark.parametrize("loss", [paper_loss, keras_loss])
def test_a_shuffled_pairing_costs_more(loss) -> None:  # type: ignore[no-untyped-def]
    z = unit(9, 5)
    assert loss(z, z, z.roll(1, dims=0), z.roll(1, dims=0), 0.2) > loss(z, z, z, z, 0.2) + 1


def test_in_the_papers_variant_the_gradient_reaches_the_predictions_and_never_the_neighbours() -> None:
    p0, p1, nn0, nn1 = (tensor.requires_grad_() for tensor in unit(4, 7, 5).unbind())
    loss = paper_loss(p0, p1, nn0, nn1, 0.3)
    slopes = torch.autograd.grad(loss, (p0, p1, nn0, nn1), allow_unused=True)
    assert slopes[2] is None
    assert slopes[3] is None
    for row, column in [(0, 0), (3, 2), (6, 4)]:
        expected = slope_of(lambda p: info_nce(nn1, p, 0.3) / 2, p0.detach(), row, column)
        assert slopes[0][row, column].item() == pytest.approx(expected, abs=1e-7)
        expected = slope_of(lambda p: info_nce(nn0, p, 0.3) / 2, p1.detach(), row, column)
        assert slopes[1][row, column].item() == pytest.approx(expected, abs=1e-7)


def test_in_the_keras_variant_the_neighbours_gradient_goes_straight_through_to_the_projection() -> None:
    z0, z1, nn0, nn1 = (tensor.requires_grad_() for tensor in unit(4, 7, 5).unbind())
    slope, none = torch.autograd.grad(keras_loss(z0, z1, nn0, nn1, 0.3), (z0, nn0), allow_unused=True)
    assert none is None

    def as_projection(z: Tensor) -> Tensor:  # z0 finds, and is found by, the neighbours of z1
        return (info_nce(nn1, z, 0.3) + info_nce(z, nn1, 0.3)) / 4

    def as_neighbour(neighbour: Tensor) -> Tensor:  # nn0 finds, and is found by, z1
        return (info_nce(neighbour, z1, 0.3) + info_nce(z1, neighbour, 0.3)) / 4

    for row, column in [(0, 0), (3, 2), (6, 4)]:
        direct = slope_of(as_projection, z0.detach(), row, column)
        through = slope_of(as_neighbour, nn0.detach(), row, column)
        assert slope[row, column].item() == pytest.approx(direct + through, abs=1e-7)
        assert abs(through) > 1e-4  # so a stopped gradient would have been seen


@pytest.mark.parametrize(
    ("anchors", "found", "temperature", "rule"),
    [
        (torch.ones(3, 2), torch.ones(4, 2), 0.1, "one shape"),
        (torch.ones(1, 2), torch.ones(1, 2), 0.1, "at least 2"),
        (torch.ones(3, 2), torch.ones(3, 2), 0.0, "positive"),
    ],
)
def test_what_has_no_loss_is_refused(anchors: Tensor, found: Tensor, temperature: float, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        info_nce(anchors, found, temperature)


# The support set


def in_order(support_set: SupportSet) -> tuple[Tensor, Tensor]:
    """Its projections and labels, the oldest first."""
    oldest = -int(support_set.pointer)
    return support_set.queue.roll(oldest, dims=0), support_set.labels.roll(oldest)


@pytest.mark.parametrize(
    "batch_sizes", [[1] * 20, [3] * 9, [4, 4, 4], [7], [8], [5, 7, 2, 9, 1], [30, 3, 14, 21]]
)
def test_the_queue_is_a_slow_deque_at_any_batch_size(batch_sizes: list[int]) -> None:
    torch.manual_seed(0)
    support_set = SupportSet(size=7, dim=3)
    slow = collections.deque(
        zip(support_set.queue.tolist(), support_set.labels.tolist(), strict=True), maxlen=7
    )
    for label, batch_size in enumerate(batch_sizes):
        z = F.normalize(torch.randn(batch_size, 3), dim=1)
        labels = 100 * label + torch.arange(batch_size)
        support_set.push(z, labels)
        slow.extend(zip(z.tolist(), labels.tolist(), strict=True))
        queue, queue_labels = in_order(support_set)
        assert queue.tolist() == [vector for vector, _ in slow]
        assert queue_labels.tolist() == [label for _, label in slow]


def test_the_queue_keeps_the_tail_then_the_head_when_it_wraps() -> None:
    support_set = SupportSet(size=5, dim=2)
    support_set.push(torch.ones(3, 2), torch.tensor([0, 1, 2]))
    support_set.push(torch.ones(4, 2), torch.tensor([3, 4, 5, 6]))
    assert support_set.labels.tolist() == [5, 6, 2, 3, 4]
    assert support_set.pointer.item() == 2


def test_the_queue_starts_as_random_directions_of_unknown_label() -> None:
    torch.manual_seed(0)
    support_set = SupportSet(size=2000, dim=16)
    torch.testing.assert_close(support_set.queue.norm(dim=1), torch.ones(2000))
    assert support_set.queue.mean(dim=0).norm() < 0.05  # on all sides: 1 / sqrt(2000) = 0.02
    assert support_set.labels.unique().tolist() == [-1]
    torch.manual_seed(0)
    assert torch.equal(SupportSet(size=2000, dim=16).queue, support_set.queue)


def test_the_nearest_is_the_slow_loops_largest_inner_product_with_its_label() -> None:
    torch.manual_seed(0)
    support_set = SupportSet(size=11, dim=4)
    support_set.push(support_set.queue.clone(), torch.arange(11))
    z = F.normalize(torch.randn(6, 4), dim=1).requires_grad_()
    neighbours, labels = support_set.nearest(z)
    for row, neighbour, label in zip(z.detach(), neighbours, labels.tolist(), strict=True):
        products = [float(row @ other) for other in support_set.queue]
        assert products.index(max(products)) == label
        assert torch.equal(neighbour, support_set.queue[label])
    assert not neighbours.requires_grad


def test_neighbours_stay_as_they_were_when_the_queue_moves_on() -> None:
    support_set = SupportSet(size=4, dim=3)
    neighbours, labels = support_set.nearest(torch.ones(2, 3))
    before = neighbours.clone(), labels.clone()
    support_set.push(torch.zeros(4, 3), torch.arange(4))
    assert torch.equal(neighbours, before[0])
    assert torch.equal(labels, before[1])


def test_a_queue_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        SupportSet(size=0, dim=3)


# The method


@pytest.mark.parametrize("variant", ["paper", "keras"])
def test_nnclr_is_its_parts_put_together_with_batch_statistics_of_one_view(variant: str) -> None:
    nnclr, (view0, view1) = small_nnclr(variant), small_views()
    queue = nnclr.support_set.queue.clone()
    step = nnclr([view0, view1], UNKNOWN)
    features = nnclr.backbone(view0)
    z0, z1 = nnclr.projection(features), nnclr.projection(nnclr.backbone(view1))
    nn0, nn1 = (queue[(F.normalize(z, dim=1) @ queue.T).argmax(dim=1)] for z in (z0, z1))
    if variant == "paper":
        terms = [(nn0, nnclr.predictor(z1)), (nn1, nnclr.predictor(z0))]
    else:
        terms = [(nn0, z1), (z1, nn0), (nn1, z0), (z0, nn1)]
    expected = sum(l_of_the_paper(anchors, found, 0.2) for anchors, found in terms) / len(terms)
    assert step.loss.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(step.features, features)
    assert {name: step.metrics[name] for name in view_metrics(z0, z1)} == view_metrics(z0, z1)


@pytest.mark.parametrize("variant", ["paper", "keras"])
def test_the_queue_takes_the_first_views_after_the_loss_and_only_in_training(variant: str) -> None:
    nnclr, (view0, view1) = small_nnclr(variant), small_views()
    before = nnclr.support_set.queue.clone()
    nnclr.eval()
    nnclr([view0, view1], torch.arange(12))
    assert torch.equal(nnclr.support_set.queue, before)
    nnclr.train()
    nnclr([view0, view1], torch.arange(12))
    z0 = F.normalize(nnclr.projection(nnclr.backbone(view0)), dim=1)
    torch.testing.assert_close(nnclr.support_set.queue[:12], z0.detach())
    assert torch.equal(nnclr.support_set.queue[12:], before[12:])
    assert nnclr.support_set.labels.tolist() == [*range(12), *[-1] * 18]
    # the same first views again: now each is in the queue, so each is its own neighbour
    assert nnclr([view0, view0], torch.arange(12)).metrics["neighbor_same_class"] == 1


def test_neighbours_of_the_same_class_are_counted_among_the_known_alone() -> None:
    nnclr, (view0, view1) = small_nnclr(queue_size=12), small_views()
    assert nnclr([view0, view1], torch.arange(12)).metrics["neighbor_same_class"].isnan()  # nothing known yet
    queue, queue_labels = nnclr.support_set.queue.clone(), torch.arange(12) % 4 - 1  # a third unknown
    nnclr.support_set.labels.copy_(queue_labels)
    labels = torch.arange(12) % 3 - 1
    agree, known = 0, 0
    for view in (view0, view1):
        z = nnclr.projection(nnclr.backbone(view))
        for row, label in zip(z, labels.tolist(), strict=True):
            neighbour_label = int(queue_labels[(queue @ row).argmax()])
            if label >= 0 and neighbour_label >= 0:
                known, agree = known + 1, agree + (label == neighbour_label)
    share = nnclr([view0, view1], labels).metrics["neighbor_same_class"]
    assert 0 < agree < known < 24  # else the comparison would say nothing
    assert share.item() == pytest.approx(agree / known)
    assert nnclr([view0, view1], UNKNOWN).metrics["neighbor_same_class"].isnan()


def test_the_heads_are_those_of_the_paper() -> None:
    nnclr = small_nnclr()
    assert isinstance(nnclr.predictor, nn.Sequential)
    for head, names in [
        (nnclr.projection, "Linear BatchNorm1d ReLU Linear BatchNorm1d ReLU Linear BatchNorm1d"),
        (nnclr.predictor, "Linear BatchNorm1d ReLU Linear"),
    ]:
        assert [type(layer).__name__ for layer in head] == names.split()
    assert list(small_nnclr("keras", predictor_dim=0).predictor.parameters()) == []


@pytest.mark.parametrize("num_views", [1, 3])
def test_other_than_two_views_are_refused(num_views: int) -> None:
    with pytest.raises(ValueError, match="two views"):
        small_nnclr()([small_views()[0]] * num_views, UNKNOWN)


def test_params_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="none of paper, keras"):
        small_nnclr("torch")
    with pytest.raises(ValueError, match="predictor_dim is 0"):
        small_nnclr(predictor_dim=0)
    with pytest.raises(ValueError, match="queue_size is 0"):
        small_nnclr(queue_size=0)


def test_in_bfloat16_the_loss_and_the_queue_are_still_float32() -> None:
    nnclr, (view0, view1) = small_nnclr("keras"), small_views()
    queue = nnclr.support_set.queue.clone()
    with torch.autocast("cpu", torch.bfloat16):
        z0, z1 = (nnclr.projection(nnclr.backbone(view)) for view in (view0, view1))
        step = nnclr([view0, view1], UNKNOWN)
    assert step.loss.dtype == step.features.dtype == nnclr.support_set.queue.dtype == torch.float32
    nn0, nn1 = (queue[(z.float() @ queue.T).argmax(dim=1)] for z in (z0, z1))
    terms = [(nn0, z1), (z1, nn0), (nn1, z0), (z0, nn1)]
    expected = sum(l_of_the_paper(anchors, found, 0.2) for anchors, found in terms) / 4
    assert step.loss.item() == pytest.approx(expected, rel=1e-5)
