"""The training loop: schedule, decay, statistics, held-out part, and the same bytes twice."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.backbones import build_backbone
from pipeline.errors import MachineError, UserError
from pipeline.params import Params, Pretrain
from pipeline.training import (
    PixelStatistics,
    build_optimizer,
    choose_device,
    choose_precision,
    extract_features,
    hold_out,
    learning_rate,
    pixel_statistics,
    train,
)


def changed(params: Params, **changes: Any) -> Pretrain:
    values = params.pretrain.model_dump()
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = values
        for name in sections:
            section = section[name]
        section[last] = value
    return Pretrain.model_validate(values)


@pytest.fixture
def tiny(params: Params) -> Pretrain:
    """Two epochs of three steps, in a second, whatever the default run may be."""
    return changed(
        params,
        **{
            "epochs": 2,
            "batch_size": 16,
            "backbone.width": 4,
            "views.size": 16,
            "views.color_jitter.p": 0.0,
            "views.blur.p": 0.0,
            "optimizer.lr": 0.05,
            "optimizer.warmup_epochs": 1.0,
            "monitor.bank_size": 20,
        },
    )


@pytest.fixture
def images() -> NDArray[np.uint8]:
    """Stripes, dots and noise in three classes: something to tell apart."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (60, 16, 16, 3), dtype=np.uint8)
    images[:20, ::4] += 150
    images[20:40, :, ::4] += 150
    return images


LABELS = np.repeat(np.arange(3), 20)


def test_the_learning_rate_is_warm_up_then_cosine(params: Params) -> None:
    chosen = changed(params, **{"epochs": 5, "optimizer.lr": 0.8, "optimizer.warmup_epochs": 2.0})
    rates = [learning_rate(chosen, step, steps_per_epoch=10) for step in range(50)]
    np.testing.assert_allclose(rates[:20], 0.8 * np.arange(1, 21) / 20)
    np.testing.assert_allclose(rates[20:], 0.4 * (1 + np.cos(np.pi * np.arange(30) / 30)))
    assert max(rates) == 0.8


def test_a_run_without_warm_up_starts_at_the_peak(params: Params) -> None:
    chosen = changed(params, **{"optimizer.lr": 0.8, "optimizer.warmup_epochs": 0.0})
    assert learning_rate(chosen, 0, steps_per_epoch=10) == 0.8


def test_biases_and_norms_do_not_decay(params: Params) -> None:
    backbone, _ = build_backbone("resnet20", 4)
    decayed, others = build_optimizer(backbone, params.pretrain.optimizer).param_groups
    assert decayed["weight_decay"] == params.pretrain.optimizer.weight_decay > 0
    assert others["weight_decay"] == 0
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {id(w) for w in others["params"]} == {id(w) for norm in norms for w in (norm.weight, norm.bias)}
    assert len(decayed["params"]) + len(others["params"]) == len(list(backbone.parameters()))


def test_pixel_statistics_are_numpys(images: NDArray[np.uint8]) -> None:
    statistics = pixel_statistics(images, seed=0)
    scaled = images.astype(np.float64) / 255
    np.testing.assert_allclose(statistics.mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(statistics.std, scaled.std(axis=(0, 1, 2)), rtol=1e-9)


def test_a_collection_of_one_colour_is_not_divided_by_zero() -> None:
    statistics = pixel_statistics(np.full((3, 8, 8, 3), 100, dtype=np.uint8), seed=0)
    assert min(statistics.std) == pytest.approx(1 / 255)


def test_the_held_out_part_is_not_trained_on(params: Params) -> None:
    train_rows, holdout_rows = hold_out(np.zeros(1000, dtype=np.int64), params.pretrain.monitor, seed=0)
    assert len(holdout_rows) == round(1000 * params.pretrain.monitor.holdout_fraction)
    assert sorted([*train_rows, *holdout_rows]) == list(range(1000))


def test_of_images_without_labels_none_is_held_out(params: Params) -> None:
    labels = np.array([0, -1, 1, -1] * 50)
    train_rows, holdout_rows = hold_out(labels, params.pretrain.monitor, seed=0)
    assert len(holdout_rows) == round(100 * params.pretrain.monitor.holdout_fraction)
    assert (labels[holdout_rows] >= 0).all()
    assert sorted([*train_rows, *holdout_rows]) == list(range(200))
    train_rows, holdout_rows = hold_out(np.full(10, -1), params.pretrain.monitor, seed=0)
    assert (len(train_rows), len(holdout_rows)) == (10, 0)


def test_without_labels_the_history_has_no_knn(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    run = train(images, np.full(len(images), -1), tiny)
    assert len(run.history) == tiny.epochs + 1
    assert all("knn_top1" not in row for row in run.history)


def test_other_labels_change_no_weight(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    run, other = train(images, LABELS, tiny), train(images, (LABELS + 1) % 3, tiny)
    for name, weight in run.backbone.items():
        assert torch.equal(weight, other.backbone[name]), name


def test_features_are_those_of_eval_mode_and_the_mode_is_put_back(images: NDArray[np.uint8]) -> None:
    torch.manual_seed(0)
    backbone, _ = build_backbone("resnet20", 4)
    statistics = PixelStatistics(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    rows = np.array([5, 3, 59, 0, 1])
    features = extract_features(backbone, images, rows, statistics, torch.device("cpu"), batch_size=2)
    assert backbone.training
    pixels = (images[rows] / 255 - np.array(statistics.mean)) / np.array(statistics.std)
    with torch.no_grad():
        expected = backbone.eval()(torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2))
    np.testing.assert_allclose(features, expected.numpy(), atol=1e-5)


def test_a_run_records_every_epoch_from_the_untrained_network_on(
    tiny: Pretrain, images: NDArray[np.uint8]
) -> None:
    run = train(images, LABELS, tiny)
    assert [row["epoch"] for row in run.history] == [0, 1, 2]
    assert list(run.history[0]) == ["epoch", "loss", "lr", "top1", "top5", "projection_std", "knn_top1"]
    assert run.history[0]["lr"] == 0
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    assert all(math.isfinite(value) for row in run.history for value in row.values())


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    tiny: Pretrain, images: NDArray[np.uint8]
) -> None:
    first, again = train(images, LABELS, tiny), train(images, LABELS, tiny)
    other = train(images, LABELS, tiny.model_copy(update={"seed": 1}))
    assert first.history == again.history
    for name, weight in first.backbone.items():
        assert torch.equal(weight, again.backbone[name]), name
    assert not torch.equal(first.backbone["stem.0.weight"], other.backbone["stem.0.weight"])


def test_labels_watch_and_never_teach(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    first = train(images, LABELS, tiny)
    shuffled = train(images, np.random.default_rng(0).permutation(LABELS), tiny)
    for name, weight in first.backbone.items():
        assert torch.equal(weight, shuffled.backbone[name]), name


def test_training_changes_the_weights_and_keeps_the_untrained_ones(
    tiny: Pretrain, images: NDArray[np.uint8]
) -> None:
    run = train(images, LABELS, tiny)
    torch.manual_seed(tiny.seed)
    fresh = build_backbone("resnet20", 4)[0].state_dict()
    for name, weight in run.untrained.items():
        assert torch.equal(weight, fresh[name]), name
    assert not torch.equal(run.backbone["stem.0.weight"], run.untrained["stem.0.weight"])


def test_no_epochs_leave_the_untrained_network(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    values = tiny.model_dump() | {"epochs": 0}
    values["optimizer"]["warmup_epochs"] = 0.0
    run = train(images, LABELS, Pretrain.model_validate(values))
    assert len(run.history) == 1
    for name, weight in run.backbone.items():
        assert torch.equal(weight, run.untrained[name]), name


def test_a_memory_map_trains_as_an_array_does(
    tiny: Pretrain, images: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("images") / "train.npy"
    np.save(path, images)
    mapped = train(np.load(path, mmap_mode="r"), LABELS, tiny)
    assert mapped.history == train(images, LABELS, tiny).history


def test_a_collection_smaller_than_a_batch_is_refused(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    with pytest.raises(UserError, match=r"pretrain\.batch_size: 16 is more than the 9 images"):
        train(images[:10], LABELS[:10], tiny)


def test_a_loss_that_is_not_finite_stops_the_run(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    values = tiny.model_dump()
    values["optimizer"]["lr"] = 1e30
    with pytest.raises(UserError, match=r"no longer finite in epoch 1 .* lower pretrain\.optimizer\.lr"):
        train(images, LABELS, Pretrain.model_validate(values))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_gpu_is_said_and_not_worked_around() -> None:
    with pytest.raises(MachineError, match="torch finds no CUDA device here"):
        choose_device("cuda")


def test_precision_is_what_is_asked_and_auto_asks_the_processor() -> None:
    cpu = torch.device("cpu")
    assert choose_precision("float32", cpu) == "float32"
    assert choose_precision("bfloat16", cpu) == "bfloat16"
    with open("/proc/cpuinfo") as file:  # noqa: PTH123
        native = "avx512_bf16" in file.read()
    assert choose_precision("auto", cpu) == ("bfloat16" if native else "float32")


def test_bfloat16_trains_too(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    full = train(images, LABELS, tiny.model_copy(update={"precision": "float32"}))
    half = train(images, LABELS, tiny.model_copy(update={"precision": "bfloat16"}))
    assert half.precision == "bfloat16"
    assert half.history != full.history
    assert half.history[-1]["loss"] == pytest.approx(full.history[-1]["loss"], rel=0.05)
    assert all(weight.dtype != torch.bfloat16 for weight in half.backbone.values())
