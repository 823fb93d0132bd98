"""Protocols on points made by hand, and against scikit-learn and slow loops."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

from pipeline.errors import UserError
from pipeline.evaluation.labelled import Labelled
from pipeline.evaluation.linear_probe import score_few_labels, score_linear, split_stratified
from pipeline.evaluation.protocols import evaluate, score_knn
from pipeline.evaluation.retrieval import average_precision, score_retrieval
from pipeline.params.evaluate import Knn, LinearProbe, Retrieval
from pipeline.params.reader import Params

LINEAR = LinearProbe(
    C=(0.01, 1.0), validation_fraction=0.2, max_iterations=500, few_label_seeds=(0, 1, 2), seed=0
)


def clouds(num_each: int, spread: float, seed: int, num_classes: int = 4) -> Labelled:
    """Classes as clouds around the corners of a simplex, shuffled."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(num_classes), num_each))
    features = np.eye(num_classes, 8)[labels] + spread * rng.standard_normal((len(labels), 8))
    return Labelled(features.astype(np.float32), labels)


def test_clouds_apart_are_told_apart_by_every_protocol(params: Params) -> None:
    scores = evaluate(clouds(300, 0.05, seed=0), clouds(50, 0.05, seed=1), params.evaluate)
    # twelve labels for eight standardised features: the noise weighs as much as the classes
    assert scores.pop("linear_1pct")["mean"] > 0.9
    assert scores == {
        "knn": {"top1": 1.0, "top5": 1.0},
        "linear": {"top1": 1.0, "top5": 1.0},
        "linear_10pct": {"mean": 1.0, "std": 0.0},
        "retrieval": {"top1": 1.0, "top5": 1.0, "precision_at_10": 1.0, "map": 1.0},
    }


def test_noise_scores_chance(params: Params) -> None:
    train, test = clouds(300, 100.0, seed=0), clouds(250, 100.0, seed=1)
    scores = evaluate(train, test, params.evaluate)
    # a quarter, with a standard error of 0.014 over 1,000 test points
    assert scores["knn"]["top1"] == pytest.approx(0.25, abs=0.06)
    assert scores["linear"]["top1"] == pytest.approx(0.25, abs=0.06)
    assert scores["linear_1pct"]["mean"] == pytest.approx(0.25, abs=0.06)
    assert scores["retrieval"]["precision_at_10"] == pytest.approx(0.25, abs=0.06)
    assert scores["retrieval"]["map"] == pytest.approx(0.25, abs=0.06)


def test_few_label_probes_are_left_out_where_a_class_would_have_one_label(params: Params) -> None:
    scores = evaluate(clouds(20, 0.05, seed=0), clouds(20, 0.05, seed=1), params.evaluate)
    assert "linear_1pct" not in scores  # 1 % of 80 images for four classes
    assert "linear_10pct" in scores


def test_knn_on_points_made_by_hand() -> None:
    # on the circle: class 0 at 0 and 10 degrees, class 1 at 60, 62 and 64
    def points(*degrees: float) -> np.ndarray:  # type: ignore[type-arg]
        angles = np.radians(degrees)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    train = Labelled(points(0, 10, 60, 62, 64), np.array([0, 0, 1, 1, 1]))
    test = Labelled(points(5, 30), np.array([0, 0]))
    nearest_one = score_knn(train, test, 2, Knn(k=1, temperature=0.1))
    assert nearest_one["top1"] == 1.0
    # with all five and no weights to speak of, the three of class 1 outvote the two
    assert score_knn(train, test, 2, Knn(k=5, temperature=1000.0))["top1"] == 0.0
    with pytest.raises(UserError, match="k is 6, but a query can find only 5 images"):
        score_knn(train, test, 2, Knn(k=6, temperature=0.1))


def test_the_linear_probe_is_scikit_learns_on_standardised_features() -> None:
    train, test = clouds(100, 0.6, seed=0), clouds(100, 0.6, seed=1)
    params = LINEAR.model_copy(update={"C": (0.1,)})
    scaler = StandardScaler().fit(train.features)
    probe = LogisticRegression(C=0.1, max_iter=500).fit(scaler.transform(train.features), train.labels)
    expected = probe.score(scaler.transform(test.features), test.labels)
    assert 0.5 < expected < 0.99  # else the comparison would say nothing
    assert score_linear(train, test, params, seed=0)["top1"] == pytest.approx(expected, abs=0.003)


def test_the_test_set_does_not_choose_the_regularisation() -> None:
    train, test = clouds(100, 0.6, seed=0), clouds(100, 0.6, seed=1)
    both = score_linear(train, test, LINEAR, seed=0)
    alone = [
        score_linear(train, test, LINEAR.model_copy(update={"C": (C,)}), seed=0)["top1"] for C in LINEAR.C
    ]
    # turning the test labels round turns the scores round, and not the choice between them
    turned = Labelled(test.features, (test.labels + 1) % 4)
    alone_turned = [
        score_linear(train, turned, LINEAR.model_copy(update={"C": (C,)}), seed=0)["top1"] for C in LINEAR.C
    ]
    assert alone[0] != alone[1]
    chosen = alone.index(both["top1"])
    assert score_linear(train, turned, LINEAR, seed=0)["top1"] == alone_turned[chosen]


def test_a_class_that_training_never_saw_is_a_miss() -> None:
    train, test = clouds(30, 0.05, seed=0, num_classes=3), clouds(30, 0.05, seed=1, num_classes=4)
    assert score_linear(train, test, LINEAR, seed=0)["top1"] == pytest.approx(0.75)


def test_more_labels_help_and_seeds_differ() -> None:
    train, test = clouds(200, 0.5, seed=0), clouds(100, 0.5, seed=1)
    few, more = (score_few_labels(train, test, fraction, LINEAR) for fraction in (0.02, 0.5))
    assert few["mean"] < more["mean"]
    assert few["std"] > 0


def test_retrieval_is_that_of_slow_loops() -> None:
    train, test = clouds(10, 0.7, seed=0), clouds(5, 0.7, seed=1)
    features = np.concatenate([train.features, test.features])
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    labels = np.concatenate([train.labels, test.labels])
    nearest, precisions, average_precisions = [], [], []
    for query in range(40, 60):
        ranked = sorted((i for i in range(60) if i != query), key=lambda i: -features[i] @ features[query])
        nearest.append([any(labels[i] == labels[query] for i in ranked[:k]) for k in (1, 5)])
        precisions.append(sum(labels[i] == labels[query] for i in ranked[:10]) / 10)
        hits, total = 0, 0.0
        for rank, i in enumerate(ranked, start=1):
            if labels[i] == labels[query]:
                hits += 1
                total += hits / rank
        average_precisions.append(total / hits)
    scores = score_retrieval(train, test, Retrieval(num_queries=1000, seed=0))
    assert [scores["top1"], scores["top5"]] == pytest.approx(np.mean(nearest, axis=0))
    assert 0 < scores["top1"] < scores["top5"] < 1
    assert scores["precision_at_10"] == pytest.approx(np.mean(precisions))
    assert scores["map"] == pytest.approx(np.mean(average_precisions))


def test_a_query_does_not_find_itself() -> None:
    # one image of each class in test, none like it anywhere but itself
    train = Labelled(np.eye(3, dtype=np.float32), np.array([0, 1, 2]))
    test = Labelled(-np.eye(3, dtype=np.float32), np.array([0, 1, 2]))
    assert score_retrieval(train, test, Retrieval(num_queries=3, seed=0))["map"] < 0.5


def test_average_precision_is_scikit_learns() -> None:
    relevant = np.random.default_rng(0).random((5, 40)) < 0.3
    ranks = -np.arange(40)
    expected = [average_precision_score(row, ranks) for row in relevant]
    np.testing.assert_allclose(average_precision(relevant), expected)


def test_a_split_is_stratified_and_a_single_image_stays_in_the_first() -> None:
    labels = np.array([0] * 50 + [1] * 7 + [2] * 2 + [3])
    first, second = split_stratified(labels, 12, seed=0)
    assert sorted([*first, *second]) == list(range(60))
    assert np.bincount(labels[second], minlength=4)[[0, 1, 3]].tolist() in (
        [10, 2, 0],
        [10, 1, 0],
        [11, 1, 0],
    )
    assert set(labels[first]) == {0, 1, 2, 3}
    assert len(second) == 12


def test_where_every_class_has_one_image_nothing_is_held_back() -> None:
    first, second = split_stratified(np.arange(5), 2, seed=0)
    assert (len(first), len(second)) == (5, 0)


def test_a_small_collection_with_rare_classes_is_scored(params: Params) -> None:
    train, test = clouds(3, 0.05, seed=0, num_classes=6), clouds(1, 0.05, seed=1, num_classes=6)
    rare = Labelled(train.features[:14], train.labels[:14])
    chosen = params.evaluate.model_copy(update={"knn": Knn(k=3, temperature=0.07), "linear": LINEAR})
    scores = evaluate(rare, test, chosen)
    assert scores["linear"]["top1"] > 0.5
    assert all(np.isfinite(value) for figures in scores.values() for value in figures.values())
