"""What every method promises the training loop, whatever its loss."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.methods import METHODS
from models.objective import Objective

SECTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "simclr": ("simclr", {"hidden_dim": 16, "output_dim": 8, "num_layers": 2, "temperature": 0.2}),
    "simsiam": (
        "simsiam",
        {
            "hidden_dim": 16,
            "output_dim": 16,
            "num_layers": 3,
            "predictor_dim": 4,
            "predictor_lr_factor": 10.0,
        },
    ),
    **{
        f"nnclr, {variant}": (
            "nnclr",
            {
                "hidden_dim": 16,
                "output_dim": 8,
                "num_layers": 3,
                "predictor_dim": 16,
                "temperature": 0.2,
                "queue_size": 20,
                "variant": variant,
            },
        )
        for variant in ("paper", "keras")
    },
}


class Constant(nn.Module):
    """A collapsed backbone: the same features whatever the image."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Parameter(torch.linspace(-1, 1, 16))

    def forward(self, images: Tensor) -> Tensor:
        return self.features.repeat(len(images), 1)


def small_backbone() -> nn.Module:
    """Two convolutions with batch norm and a mean over the image: float [B, 3, H, W] -> [B, 16]."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


def build(case: str, backbone: nn.Module | None = None) -> Any:
    name, section = SECTIONS[case]
    torch.manual_seed(0)
    objective: Objective = METHODS[name](backbone or small_backbone(), 16, **section)
    return objective


@pytest.fixture(params=SECTIONS)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def views() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(16, 3, 12, 12, generator=generator)
    return [images + 0.1 * torch.randn(16, 3, 12, 12, generator=generator) for _ in range(2)]


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(16) % 4 - 1


@pytest.fixture
def gradients(views: list[Tensor]) -> Callable[[Any, Tensor], dict[str, Tensor]]:
    def of(objective: Any, labels: Tensor) -> dict[str, Tensor]:
        objective.zero_grad()
        objective(views, labels).loss.backward()
        return {name: weight.grad for name, weight in objective.named_parameters()}

    return of


def test_the_table_below_covers_every_method() -> None:
    assert {name for name, _ in SECTIONS.values()} == set(METHODS)


def test_the_loss_is_a_finite_scalar_with_gradient(case: str, views: list[Tensor], labels: Tensor) -> None:
    loss = build(case)(views, labels).loss
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert loss.requires_grad


def test_the_gradient_reaches_every_weight(
    case: str, labels: Tensor, gradients: Callable[[Any, Tensor], dict[str, Tensor]]
) -> None:
    for name, gradient in gradients(build(case), labels).items():
        assert gradient is not None, name
        assert gradient.abs().sum() > 0, name


def test_the_loss_falls_on_a_fixed_batch(case: str, views: list[Tensor], labels: Tensor) -> None:
    objective = build(case)
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(25):
        loss = objective(views, labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # the queue changes what nnclr is asked at first, so it is compared with the worst of its start
    assert sum(losses[-5:]) / 5 < max(losses[:5]) - 0.3


def test_a_copy_of_the_state_gives_the_same_next_loss(case: str, views: list[Tensor], labels: Tensor) -> None:
    objective = build(case)
    for _ in range(3):
        objective(views, labels)  # moves batch statistics and queues
    torch.manual_seed(1)
    resumed = copy.deepcopy(objective)
    for tensor in [*resumed.parameters(), *resumed.buffers()]:
        tensor.data.zero_()
    resumed.load_state_dict(objective.state_dict())
    for _ in range(2):
        expected, found = objective(views, labels), resumed(views, labels)
        assert torch.equal(expected.loss, found.loss)
        for name, value in expected.metrics.items():
            assert torch.equal(value, found.metrics[name]), name
    for name, buffer in resumed.named_buffers():
        assert torch.equal(buffer, objective.get_buffer(name)), name


def test_metrics_are_detached_scalars_of_the_same_names_at_every_step(
    case: str, views: list[Tensor], labels: Tensor
) -> None:
    objective = build(case)
    steps = [objective(views, given) for given in (torch.full((16,), -1), labels, labels)]
    for step in steps:
        assert list(step.metrics) == list(steps[0].metrics)
        for name, value in step.metrics.items():
            assert value.shape == (), name
            assert not value.requires_grad, name
            assert value.isfinite() or name == "neighbor_same_class", name


def test_features_are_the_first_views_detached(case: str, views: list[Tensor], labels: Tensor) -> None:
    objective = build(case)
    features = objective(views, labels).features
    assert features.shape == (16, 16)
    assert not features.requires_grad
    objective.eval()  # so that batch statistics do not mix the views
    torch.testing.assert_close(objective(views, labels).features, objective.backbone(views[0]).detach())


def test_labels_change_no_gradient(
    case: str, labels: Tensor, gradients: Callable[[Any, Tensor], dict[str, Tensor]]
) -> None:
    known, unknown = build(case), build(case)
    for _ in range(2):
        expected = gradients(unknown, torch.full((16,), -1))
        for name, gradient in gradients(known, labels).items():
            assert torch.equal(gradient, expected[name]), name


def test_a_collapsed_backbone_is_told_apart_by_the_spread(
    case: str, views: list[Tensor], labels: Tensor
) -> None:
    objective = build(case)
    healthy = objective(views, labels).metrics["projection_std"].item()
    collapsed = build(case, Constant())(views, labels).metrics["projection_std"].item()
    output_dim = SECTIONS[case][1]["output_dim"]
    assert healthy > 0.5 / output_dim**0.5
    assert collapsed == pytest.approx(0, abs=1e-4)


def test_constant_learning_rates_are_for_own_parameters(case: str) -> None:
    objective = build(case)
    own = {id(weight) for weight in objective.parameters()}
    assert {id(weight) for weight in objective.constant_lr_parameters()} <= own
    assert bool(objective.constant_lr_parameters()) == (case == "simsiam")
