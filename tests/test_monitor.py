"""What is watched: the held-out part, the features, and a probe that teaches the backbone nothing."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from models.backbones import build_backbone
from pipeline.params.pretrain import Pretrain
from pipeline.params.reader import Params
from pipeline.training.monitoring.monitor import OnlineProbe, Watch, extract_features, hold_out, mild_views


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


def test_features_are_those_of_eval_mode_and_the_mode_is_put_back() -> None:
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    backbone = build_backbone("resnet20", width=4, image_size=16).module
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    rows = np.array([5, 3, 59, 0, 1])
    features = extract_features(backbone, images, rows, mean.view(3, 1, 1), std.view(3, 1, 1), batch_size=2)
    assert backbone.training
    pixels = (images[rows] / 255 - mean.numpy()) / std.numpy()
    with torch.no_grad():
        expected = backbone.eval()(torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2))
    np.testing.assert_allclose(features, expected.numpy(), atol=1e-5)


def test_large_images_come_in_smaller_batches() -> None:
    """256 of 112 px, 64 of 224 px: the activations of a batch take as much memory."""
    seen = []

    class Backbone(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            seen.append(len(batch))
            return batch.mean(dim=(2, 3))

    zero, one = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    for size in (112, 224):
        images = np.zeros((256, size, size, 3), dtype=np.uint8)
        extract_features(Backbone(), images, np.arange(256), zero, one)
    assert seen == [256, 64, 64, 64, 64]


def test_the_probe_learns_what_logistic_regression_does_and_no_gradient_leaves_it() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    features = (np.eye(3, 8)[labels] + 0.5 * rng.standard_normal((600, 8))).astype(np.float32)
    probe = OnlineProbe(8, 3, lr=0.05)
    for _ in range(30):
        for start in range(0, 500, 100):
            batch = torch.from_numpy(features[start : start + 100]).requires_grad_()
            probe.learn(batch, torch.from_numpy(labels[start : start + 100]))
            assert batch.grad is None
    reached = probe.accuracy(torch.from_numpy(features[500:]), torch.from_numpy(labels[500:]))
    oracle = LogisticRegression().fit(features[:500], labels[:500]).score(features[500:], labels[500:])
    assert abs(reached - oracle) < 0.04
    assert oracle > 0.6


def test_the_probe_passes_over_images_without_labels() -> None:
    probe = OnlineProbe(4, 2, lr=0.1)
    before = probe.linear.weight.clone()
    probe.learn(torch.randn(8, 4), torch.full([8], -1))
    assert torch.equal(probe.linear.weight, before)
    probe.learn(torch.randn(8, 4), torch.tensor([0, 1, -1, -1, -1, -1, -1, -1]))
    assert not torch.equal(probe.linear.weight, before)


def test_the_mild_views_are_flips_a_larger_crop_and_brightness(params: Params) -> None:
    views = mild_views(params.pretrain.views, params.pretrain.monitor.probe)
    assert (views.crop.scale.low, views.crop.scale.high) == (0.5, 1.0)
    assert (views.color_jitter.p, views.color_jitter.brightness) == (1.0, 0.2)
    assert views.color_jitter.contrast == views.color_jitter.saturation == views.color_jitter.hue == 0
    assert views.affine.p == views.grayscale.p == views.blur.p == views.solarize.p == 0
    kept = ("size", "horizontal_flip", "vertical_flip")
    assert [getattr(views, key) for key in kept] == [getattr(params.pretrain.views, key) for key in kept]


def test_a_probe_with_mild_views_learns_from_the_labelled_alone_and_leaves_the_backbone(
    params: Params,
) -> None:
    values = params.pretrain.model_dump()
    values["monitor"]["probe"]["views"] = "mild"
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    labels = np.tile([0, 1, -1], 20)
    backbone = build_backbone("resnet20", width=4, image_size=16)
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    half = torch.full((3, 1, 1), 0.5)
    watch = Watch(images, labels, backbone, half, half, Pretrain.model_validate(values))
    assert watch.probe is not None

    def lesson(rows: list[int]) -> torch.Tensor:
        watch.generator.manual_seed(0)
        assert watch.probe is not None
        torch.nn.init.zeros_(watch.probe.linear.weight)
        # the method's own features play no part
        watch.teach(torch.full((len(rows), backbone.feature_dim), torch.nan), np.array(rows))
        return watch.probe.linear.weight.clone()

    assert torch.equal(lesson([2, 5, 8]), torch.zeros(2, backbone.feature_dim))
    assert torch.equal(lesson([2, 5, 0]), torch.zeros(2, backbone.feature_dim))  # one has no batch statistics
    assert lesson([0, 1, 3, 4]).abs().max() > 0
    watch.probe = type(watch.probe)(backbone.feature_dim, 2, 0.01)
    labelled = lesson([0, 1, 3, 4])
    watch.probe = type(watch.probe)(backbone.feature_dim, 2, 0.01)
    assert torch.equal(lesson([0, 2, 1, 3, 5, 4]), labelled)
    assert backbone.module.training
    assert all(torch.equal(value, before[name]) for name, value in backbone.module.state_dict().items())
