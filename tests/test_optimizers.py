"""The schedule in closed form, what decays, and each optimiser's step against its paper."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.backbones import build_backbone
from pipeline.params.pretrain import Optimizer
from pipeline.params.reader import Params
from pipeline.training.optimizers import (
    build_optimizer,
    clip_gradient,
    learning_rate,
    peak_learning_rate,
    set_learning_rate,
)


def chosen(params: Params, **changes: Any) -> Optimizer:
    return Optimizer.model_validate(params.pretrain.optimizer.model_dump() | changes)


def test_the_learning_rate_is_warm_up_then_cosine(params: Params) -> None:
    optimizer = chosen(params, schedule="cosine")
    rates = [learning_rate(optimizer, 0.8, step, num_steps=50, warmup_steps=20) for step in range(50)]
    np.testing.assert_allclose(rates[:20], 0.8 * np.arange(1, 21) / 20)
    np.testing.assert_allclose(rates[20:], 0.4 * (1 + np.cos(np.pi * np.arange(30) / 30)))
    assert max(rates) == 0.8


def test_a_constant_rate_stays_after_the_warm_up(params: Params) -> None:
    optimizer = chosen(params, schedule="constant")
    rates = [learning_rate(optimizer, 0.8, step, num_steps=10, warmup_steps=2) for step in range(10)]
    np.testing.assert_allclose(rates, [0.4] + [0.8] * 9)


def test_a_run_without_warm_up_starts_at_the_peak(params: Params) -> None:
    assert learning_rate(chosen(params), 0.8, 0, num_steps=10, warmup_steps=0) == 0.8


def test_the_rate_scales_with_the_batch_where_it_is_asked_to(params: Params) -> None:
    assert peak_learning_rate(0.05, chosen(params, scale_lr=True), 512) == pytest.approx(0.1)
    assert peak_learning_rate(0.05, chosen(params, scale_lr=False), 512) == 0.05


@pytest.mark.parametrize("name", ["sgd", "lars", "adam", "adamw"])
def test_biases_and_norms_do_not_decay(params: Params, name: str) -> None:
    backbone = build_backbone("resnet20", width=4, image_size=16).module
    decayed, others = build_optimizer(
        {"backbone": list(backbone.parameters())}, chosen(params, name=name)
    ).param_groups
    assert decayed["weight_decay"] == params.pretrain.optimizer.weight_decay > 0
    assert others["weight_decay"] == 0
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {id(w) for w in others["params"]} == {id(w) for norm in norms for w in (norm.weight, norm.bias)}
    assert len(decayed["params"]) + len(others["params"]) == len(list(backbone.parameters()))


def test_weights_of_constant_rate_keep_the_peak(params: Params) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    constant = list(module[1].parameters())
    parts = {"head": list(module[0].parameters()), "constant": constant}
    optimizer = build_optimizer(parts, chosen(params, name="sgd"))
    set_learning_rate(optimizer, {"backbone": 0.0, "head": 0.01, "constant": 0.3})
    rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    assert all(rates[id(weight)] == 0.3 for weight in constant)
    assert all(rates[id(weight)] == 0.01 for weight in module[0].parameters())
    assert len(rates) == 4


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_lars_takes_the_papers_step_with_weight_decay_and_without(params: Params, decay: float) -> None:
    """You et al. 2017, arXiv:1708.03888, eq. 6: the rate of a layer is trust * |w| / (|g| + decay * |w|)."""
    torch.manual_seed(0)
    layer = nn.Linear(5, 3)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    settings = chosen(params, name="lars", lr=0.4, momentum=0.9, weight_decay=decay, trust_coefficient=0.02)
    optimizer = build_optimizer({"head": list(layer.parameters())}, settings)
    layer(torch.randn(7, 5)).square().sum().backward()
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    gradient, bias_gradient = layer.weight.grad.clone(), layer.bias.grad.clone()
    optimizer.step()
    local_rate = 0.02 * weight.norm() / (gradient.norm() + decay * weight.norm())
    torch.testing.assert_close(
        layer.weight.detach(), weight - 0.4 * local_rate * (gradient + decay * weight), rtol=1e-4, atol=1e-6
    )
    # no adaptation and no decay for a bias: plain SGD
    torch.testing.assert_close(layer.bias.detach(), bias - 0.4 * bias_gradient)


def test_a_long_gradient_is_cut_to_the_norm_and_a_short_one_is_not() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.grad = torch.tensor([[3.0, 4.0]])
    clip_gradient(layer, None)
    assert layer.weight.grad.norm().item() == 5
    clip_gradient(layer, 10.0)
    assert layer.weight.grad.norm().item() == 5
    clip_gradient(layer, 1.0)
    assert layer.weight.grad.norm().item() == pytest.approx(1, rel=1e-4)
