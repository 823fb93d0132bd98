"""Labels as people have them: few, of few classes, of one image, in one split alone."""

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from pipeline.evaluation.coverage import PROTOCOLS, SHARES, label_figures, left_out, remarks
from pipeline.evaluation.labelled import Labelled
from pipeline.evaluation.protocols import evaluate
from pipeline.params.evaluate import Knn
from pipeline.params.reader import Params

NO_SHARES = {"C", "iterations", "k", "num_images", "median_first_rank", "num_clusters", "ari"}
NAMES = [f"class {number}" for number in range(200)]


def features_of(labels: np.ndarray, seed: int) -> Labelled:  # type: ignore[type-arg]
    noise = np.random.default_rng(seed).standard_normal((len(labels), 16))
    return Labelled((np.eye(200, 16)[labels] + 0.3 * noise).astype(np.float32), labels)


def repeated(*counts: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.repeat(np.arange(len(counts)), counts)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (repeated(384, 2), repeated(96, 1)),  # two classes of 480 and 3, a fifth of each for the test
        (repeated(480, 3), repeated(1)),
        (repeated(0, 50, 50), repeated(10, 10)),  # a class only in test
        (repeated(50, 50, 1), repeated(10)),  # classes only in train, one of a single image
        (repeated(*[1] * 30), repeated(*[1] * 30)),
        (repeated(10, 1), repeated(0, 1)),
        (repeated(20), repeated(3, 3)),  # all of one class to learn from
        (repeated(20), repeated(3)),
        (repeated(1, 1), repeated(1, 1)),
        (repeated(0, 0, 0, 4, 4), repeated(0, 0, 0, 1)),  # the first classes have no image at all
        (repeated(*[20] * 100), repeated(*[2] * 100)),
        (repeated(), repeated(3)),
        (repeated(3), repeated()),
        (repeated(), repeated()),
    ],
    ids=lambda labels: f"{len(labels)}-of-{len(np.unique(labels))}",
)
def test_whatever_labels_there_are_each_protocol_is_scored_or_left_out_with_its_reason(
    train: np.ndarray,  # type: ignore[type-arg]
    test: np.ndarray,  # type: ignore[type-arg]
    params: Params,
) -> None:
    voters = Knn(k=(1,), temperature=(0.07,), validation_fraction=0.2, seed=0)
    chosen = params.evaluate.model_copy(update={"knn": voters})
    without = left_out(train, test)
    assert all(reason for reason in without.values())
    if len(without) == len(PROTOCOLS):
        return
    scores, _ = evaluate(features_of(train, 0), features_of(test, 1), NAMES, chosen, torch.device("cpu"))
    assert set(scores) == set(PROTOCOLS) - set(without)
    for figures in scores.values():
        recall = figures.pop("recall", {})
        assert isinstance(recall, dict)
        assert not recall or set(recall) == {NAMES[label] for label in np.unique(test)}
        assert all(np.isfinite([*figures.values(), *recall.values()]))
        assert all(0 <= share <= 1 for name, share in figures.items() if name not in NO_SHARES)


def test_few_labels_are_left_out_where_a_class_would_have_fewer_than_two() -> None:
    assert left_out(repeated(20, 20, 20, 20), repeated(10, 10)) == {
        "linear_1pct": "1% of 80 labels is 1, fewer than two for each of 4 classes",
        "linear_5pct": "5% of 80 labels is 4, fewer than two for each of 4 classes",
    }
    assert left_out(repeated(200, 200), repeated(10, 10)) == {}
    few = left_out(repeated(9, 5), repeated(10, 10))
    assert list(few) == [*SHARES, "linear_16shot"]
    assert few["linear_16shot"] == "no class has more than 16 labelled training images: that is all of them"
    assert "linear_1shot" in left_out(repeated(1, 1, 1), repeated(5, 5))


def test_clusters_of_few_images_are_left_out_since_they_agree_with_any_classes() -> None:
    rng = np.random.default_rng(0)
    flattered = normalized_mutual_info_score(np.arange(200).repeat(2), rng.integers(0, 200, 400))
    assert flattered > 0.8
    why = "fewer than 10 labelled test images a class"
    assert left_out(repeated(*[40] * 200), repeated(*[2] * 200))["clusters"] == why
    assert "clusters" not in left_out(repeated(*[40] * 200), repeated(*[10] * 200))


def test_what_nothing_can_be_learned_from_is_said() -> None:
    one = left_out(repeated(20), repeated(10, 10))
    assert set(one) == set(PROTOCOLS) - {"retrieval", "clusters"}
    assert set(one.values()) == {"all labelled training images are of one class"}
    assert set(left_out(repeated(), repeated(3)).values()) == {"no training image has a label"}
    assert set(left_out(repeated(3), repeated()).values()) == {"no test image has a label"}
    alone = left_out(np.array([0, 0, 1, 1]), np.array([2, 3]))
    assert alone["retrieval"] == "no test image has another of its class"


def test_the_commonest_class_is_counted_in_training_and_scored_on_the_test() -> None:
    figures = label_figures(repeated(10, 90), repeated(30, 10, 5))
    assert figures == {
        "majority_share": pytest.approx(10 / 45),
        "num_classes_only_in_test": 1,
        "num_classes_only_in_train": 0,
    }


def test_classes_that_cannot_be_scored_as_others_are_named() -> None:
    train, test = np.array([0, 0, 1, 4, 4]), np.array([0, 2, 3])
    assert remarks(train, test, NAMES) == [
        "classes only in test, so that every answer about them is wrong: class 2, class 3",
        "classes only in training, so that none of them is scored: class 1, class 4",
        "classes with one labelled training image: class 1",
    ]
    many = remarks(repeated(*[2] * 9), np.array([0]), NAMES)
    assert many == [
        "classes only in training, so that none of them is scored: class 1, class 2, class 3, class 4, "
        "class 5 and 3 more"
    ]
