"""The linear probe against scikit-learn: its fits, its choice of C, its draws of few labels."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from pipeline.evaluation.labelled import Labelled
from pipeline.evaluation.probes import logistic
from pipeline.evaluation.probes.draws import draw_of_each_class, split_in_folds, split_stratified
from pipeline.evaluation.probes.few_labels import curves, score_few_labels
from pipeline.evaluation.probes.linear_probe import score_linear
from pipeline.evaluation.probes.logistic import fit_logistic
from pipeline.params.evaluate import LinearProbe
from tests.test_evaluate import clouds

CPU = torch.device("cpu")
LINEAR = LinearProbe(
    C=(0.01, 1.0), validation_fraction=0.2, max_iterations=500, few_label_seeds=(0, 1, 2), seed=0
)
NAMES = ["a", "b", "c", "d"]


def scikit_learn(features: NDArray[np.float32], labels: NDArray[np.int64], C: float) -> LogisticRegression:
    """To the last digit: what ours is compared with has converged."""
    return LogisticRegression(C=C, max_iter=20_000, tol=1e-9).fit(features.astype(np.float64), labels)


def top1(train: Labelled, test: Labelled, C: float) -> float:
    scaler = StandardScaler().fit(train.features)
    probe = scikit_learn(scaler.transform(train.features), train.labels, C)
    return float(probe.score(scaler.transform(test.features), test.labels))


@pytest.mark.parametrize("num_classes", [2, 3, 7])
@pytest.mark.parametrize("block_bytes", [16 << 20, 500])
def test_many_fits_at_once_are_each_scikit_learns(
    num_classes: int, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logistic, "_BLOCK_BYTES", block_bytes)
    cloud = clouds(60, 0.7, seed=0, num_classes=num_classes)
    features = cloud.features * np.float32([1, 100, 0.01, 1, 1, 1, 1, 1]) + np.float32(5)
    features[:, 7] = 3  # a constant is nothing to learn from, and nothing to divide by
    rng = np.random.default_rng(0)
    sets = [np.sort(rng.permutation(len(features))[:50]) for _ in range(3)]
    strengths = np.tile([0.01, 1.0, 10.0], (3, 1))
    found = fit_logistic(features, cloud.labels, sets, strengths, 1000, CPU)
    assert found.converged.all()
    for number, rows in enumerate(sets):
        scaler = StandardScaler().fit(features[rows].astype(np.float64))
        logits = np.empty((3, len(features), num_classes), dtype=np.float32)
        for block, scores in found.scores(features, number):
            logits[:, block] = scores
        for of_strength, C in enumerate(strengths[number]):
            probe = scikit_learn(scaler.transform(features[rows]), cloud.labels[rows], C)
            expected = probe.predict_proba(scaler.transform(features))
            ours = torch.from_numpy(logits[of_strength]).softmax(dim=1).numpy()
            np.testing.assert_allclose(ours, expected, atol=0.02)
            # what is minimised is flat around its minimum: there the two agree far better
            weights = found.weights[number, of_strength, :, :-1].double()
            squares = (
                (2 if num_classes == 2 else 1) * float(weights.square().sum()),
                np.square(probe.coef_).sum(),
            )
            minimised = [
                log_loss(cloud.labels[rows], each[rows]) + square / (2 * C * len(rows))
                for each, square in zip((ours, expected), squares, strict=True)
            ]
            assert minimised[0] == pytest.approx(minimised[1], abs=3e-5)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_fits_of_fewer_rows_than_features_are_each_scikit_learns(num_classes: int) -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((40, 100)).astype(np.float32) * np.float32(3) + np.float32(1)
    features[:, 7] = 3
    labels = np.arange(40) % num_classes
    sets = [np.arange(20), np.arange(10, 30)]
    found = fit_logistic(features, labels, sets, np.tile([0.01, 1.0], (2, 1)), 1000, CPU)
    assert found.converged.all()
    assert found.weights.shape == (2, 2, num_classes, 101)
    for number, rows in enumerate(sets):
        scaler = StandardScaler().fit(features[rows].astype(np.float64))
        ((_, logits),) = found.scores(features, number)  # all in one block
        for of_strength, C in enumerate((0.01, 1.0)):
            probe = scikit_learn(scaler.transform(features[rows]), labels[rows], C)
            ours = torch.from_numpy(logits[of_strength]).softmax(dim=1).numpy()
            np.testing.assert_allclose(ours, probe.predict_proba(scaler.transform(features)), atol=0.01)


def test_a_fit_that_is_not_done_says_so() -> None:
    cloud = clouds(60, 0.7, seed=0)
    rows = [np.arange(len(cloud.labels))]
    cut = fit_logistic(cloud.features, cloud.labels, rows, np.array([[0.01, 1000.0]]), 8, CPU)
    whole = fit_logistic(cloud.features, cloud.labels, rows, np.array([[0.01, 1000.0]]), 1000, CPU)
    assert whole.converged.all()
    assert cut.iterations.max() == 8
    assert not cut.converged[0, 1]
    assert (whole.iterations > 0).all()
    train, test = clouds(100, 0.6, seed=0), clouds(100, 0.6, seed=1)
    assert score_linear(train, test, NAMES, LINEAR, CPU)[0]["converged"] is True
    short = LINEAR.model_copy(update={"max_iterations": 2})
    assert score_linear(train, test, NAMES, short, CPU)[0]["converged"] is False
    assert score_few_labels(train, test, "linear_10pct", short, CPU)["converged"] is False


def test_the_probe_is_scikit_learns_on_standardised_features() -> None:
    train, test = clouds(100, 0.6, seed=0), clouds(100, 0.6, seed=1)
    params = LINEAR.model_copy(update={"C": (0.1,)})
    expected = top1(train, test, 0.1)
    assert 0.5 < expected < 0.99  # else the comparison would say nothing
    assert score_linear(train, test, NAMES, params, CPU)[0]["top1"] == pytest.approx(expected, abs=0.003)


def weak_features(num_images: int, seed: int) -> Labelled:
    """Two classes that 150 features tell a little each: nearest means do best, a large C learns noise."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(2), num_images // 2))
    features = 0.1 * (2 * labels - 1)[:, None] + rng.standard_normal((num_images, 150))
    return Labelled(features.astype(np.float32), labels)


def small_difference(num_images: int, seed: int) -> Labelled:
    """Two classes that the difference of two features tells, which a small C does not weigh enough."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(2), num_images // 2))
    first = rng.standard_normal(num_images)
    second = first + 0.2 * labels + 0.05 * rng.standard_normal(num_images)
    return Labelled(np.stack([first, second], axis=1).astype(np.float32), labels)


@pytest.mark.parametrize(("points", "best"), [(weak_features, 0.001), (small_difference, 100.0)])
@pytest.mark.parametrize("strengths", [(0.001, 100.0), (100.0, 0.001)])
def test_the_strength_is_the_best_on_the_validation_part_be_it_the_larger_or_not(
    points: Callable[[int, int], Labelled], best: float, strengths: tuple[float, ...]
) -> None:
    train, test = points(600, 0), points(400, 1)
    params = LINEAR.model_copy(update={"C": strengths, "validation_fraction": 0.6})
    parts = [
        Labelled(train.features[rows], train.labels[rows])
        for rows in split_stratified(train.labels, 240, LINEAR.seed)
    ]
    accuracies = {C: top1(*parts, C) for C in strengths}
    (other,) = set(strengths) - {best}
    assert accuracies[other] < accuracies[best] - 0.03  # else the choice would say nothing
    found, _ = score_linear(train, test, ["a", "b"], params, CPU)
    assert found["C"] == best
    assert found["top1"] == pytest.approx(top1(train, test, best), abs=0.005)


def test_of_equals_the_strongest_regularisation_is_taken() -> None:
    train, test = clouds(50, 0.01, seed=0), clouds(20, 0.01, seed=1)
    params = LINEAR.model_copy(update={"C": (1.0, 0.1, 10.0)})
    assert score_linear(train, test, NAMES, params, CPU)[0]["C"] == 0.1


def test_the_test_set_does_not_choose_the_regularisation() -> None:
    train, test = clouds(100, 0.6, seed=0), clouds(100, 0.6, seed=1)
    # turning the test labels round turns the scores round, and not the choice
    turned = Labelled(test.features, (test.labels + 1) % 4)
    found, of_turned = (score_linear(train, part, NAMES, LINEAR, CPU)[0] for part in (test, turned))
    assert found["C"] == of_turned["C"]
    assert found["top1"] != of_turned["top1"]


def test_a_class_that_training_never_saw_is_a_miss() -> None:
    train, test = clouds(30, 0.05, seed=0, num_classes=3), clouds(30, 0.05, seed=1, num_classes=4)
    found, _ = score_linear(train, test, NAMES, LINEAR, CPU)
    assert found["top1"] == pytest.approx(0.75)
    assert found["recall"]["d"] == 0  # type: ignore[index]


def test_more_labels_help_and_seeds_differ() -> None:
    train, test = clouds(200, 0.5, seed=0), clouds(100, 0.5, seed=1)
    few, more = (
        score_few_labels(train, test, name, LINEAR, CPU) for name in ("linear_1pct", "linear_16shot")
    )
    assert few["mean"] < more["mean"]  # type: ignore[operator]
    assert few["std"] > 0  # type: ignore[operator]


def test_few_labels_are_those_of_fits_one_by_one() -> None:
    train, test = clouds(200, 0.5, seed=0), clouds(100, 0.5, seed=1)
    one = LINEAR.model_copy(update={"C": (0.1,)})
    draws = [split_stratified(train.labels, 40, seed)[0] for seed in one.few_label_seeds]
    alone = [top1(Labelled(train.features[rows], train.labels[rows]), test, 0.1) for rows in draws]
    found = score_few_labels(train, test, "linear_5pct", one, CPU)
    assert found["mean"] == pytest.approx(np.mean(alone), abs=0.003)
    assert found["std"] == pytest.approx(np.std(alone, ddof=1), abs=0.003)


def test_so_many_of_each_class_are_drawn_or_all_of_a_rare_one() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [50, 5, 3, 1]))
    drawn = draw_of_each_class(labels, 5, seed=0)
    assert np.bincount(labels[drawn]).tolist() == [5, 5, 3, 1]
    assert (np.diff(drawn) > 0).all()
    assert not np.array_equal(drawn, draw_of_each_class(labels, 5, seed=1))


def test_folds_have_of_each_class_its_share() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(3), [50, 7, 2]))
    folds = split_in_folds(labels, 5, seed=0)
    for label in range(3):
        counts = np.bincount(folds[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_a_curve_rises_in_images_and_ends_with_all_labels() -> None:
    few = {"num_images": 50, "mean": 0.5, "mean_low": 0.4, "mean_high": 0.6}
    every = {"top1": 0.9, "top1_low": 0.8, "top1_high": 1.0}
    figures = {"encoder": {"linear_5shot": few, "linear_1shot": few | {"num_images": 10}, "linear": every}}
    found = curves(figures, 4000, ["encoder", "start"])
    assert [row["num_images"] for row in found] == [10, 50, 4000]
    assert found[-1] == {"subject": "encoder", "num_images": 4000, "mean": 0.9, "low": 0.8, "high": 1.0}


@pytest.mark.parametrize("counts", [[480, 3], [50, 7, 2, 1], [5] * 20, [1] * 6, [300, 299]])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 1.0])
def test_a_draw_has_every_class_and_of_each_its_share(counts: list[int], share: float) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    wanted = round(share * len(labels))
    first, second = split_stratified(labels, wanted, seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), np.arange(len(labels)))
    assert len(first) == max(wanted, len(counts))
    drawn = np.bincount(labels[first], minlength=len(counts))
    assert (drawn >= 1).all()
    # one for certain, and of the rest its share, rounded up or down
    others = np.array(counts) - 1
    even = (len(first) - len(counts)) * others / max(1, others.sum())
    assert (np.abs(drawn - 1 - even) <= 1).all()
    assert (
        wanted == len(labels)
        or not np.array_equal(first, split_stratified(labels, wanted, 1)[0])
        or (len(second) == 0)
    )


def test_scikit_learns_own_stopping_is_no_better_than_ours() -> None:
    """The default tolerance of both: the accuracies agree to 0.3 points."""
    train, test = clouds(300, 0.9, seed=0, num_classes=8), clouds(400, 0.9, seed=1, num_classes=8)
    scaler = StandardScaler().fit(train.features)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = LogisticRegression(C=1.0, max_iter=500).fit(scaler.transform(train.features), train.labels)
    expected = theirs.score(scaler.transform(test.features), test.labels)
    found, _ = score_linear(train, test, [*"abcdefgh"], LINEAR.model_copy(update={"C": (1.0,)}), CPU)
    assert found["top1"] == pytest.approx(expected, abs=0.003)
