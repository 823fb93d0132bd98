"""Protocols on points made by hand, and against scikit-learn and slow loops."""

import sys

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, average_precision_score, recall_score

from pipeline.evaluation import retrieval
from pipeline.evaluation.figures import class_figures
from pipeline.evaluation.labelled import Labelled
from pipeline.evaluation.probes.draws import split_stratified
from pipeline.evaluation.probes.weighted_knn import score_knn
from pipeline.evaluation.protocols import evaluate
from pipeline.evaluation.retrieval import askable, measures, retrieve, score_retrieval
from pipeline.params.evaluate import Knn, Retrieval
from pipeline.params.reader import Params

CPU = torch.device("cpu")
NAMES = ["a", "b", "c", "d", "e", "f", "g", "h"]


def voters(k: object, temperature: object) -> Knn:
    values = {"k": k, "temperature": temperature, "validation_fraction": 0.2, "seed": 0}
    return Knn.model_validate(values)


def clouds(num_each: int, spread: float, seed: int, num_classes: int = 4) -> Labelled:
    """Classes as clouds around the corners of a simplex, shuffled."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(num_classes), num_each))
    features = np.eye(num_classes, 8)[labels] + spread * rng.standard_normal((len(labels), 8))
    return Labelled(features.astype(np.float32), labels)


def test_clouds_apart_are_told_apart_by_every_protocol(params: Params) -> None:
    scores, _ = evaluate(
        clouds(300, 0.05, seed=0, num_classes=6),
        clouds(50, 0.05, seed=1, num_classes=6),
        NAMES,
        params.evaluate,
        CPU,
    )
    # six labels, or eighteen, for eight standardised features: the noise weighs as much as the classes
    assert scores.pop("linear_1pct")["mean"] > 0.9  # type: ignore[operator]
    assert scores.pop("linear_1shot")["mean"] > 0.6  # type: ignore[operator]
    assert scores.pop("linear_5shot")["mean"] > 0.9  # type: ignore[operator]
    assert scores["linear"].pop("C") in params.evaluate.linear.C
    assert scores["linear"].pop("iterations") > 0  # type: ignore[operator]
    every = {"top1": 1.0, "top1_low": 1.0, "top1_high": 1.0, "top5": 1.0, "balanced_accuracy": 1.0}
    recall = dict.fromkeys(NAMES[:6], 1.0)
    certain = {f"mean{bound}": 1.0 for bound in ("", "_low", "_high")} | {"std": 0.0}
    few = certain | {"balanced_accuracy": 1.0, "converged": True}
    found = {
        "precision_at_10": 1.0,
        "r_precision": 1.0,
        "map_at_r": 1.0,
        "map": 1.0,
        "median_first_rank": 1.0,
    }
    bounds = {f"{name}_{bound}": 1.0 for name in ("precision_at_10", "map_at_r") for bound in ("low", "high")}
    assert scores == {
        "knn": every | {"k": 5, "temperature": 0.03, "recall": recall},
        "linear": every | {"converged": True, "recall": recall},
        "linear_5pct": few | {"num_images": 90},
        "linear_10pct": few | {"num_images": 180},
        "linear_16shot": few | {"num_images": 96},
        "retrieval": every | found | bounds | {"recall_at_10": pytest.approx(10 / 349)},
        "clusters": {"nmi": pytest.approx(1), "ari": pytest.approx(1), "num_clusters": 6},
    }


def test_noise_scores_chance(params: Params) -> None:
    train, test = clouds(300, 100.0, seed=0), clouds(250, 100.0, seed=1)
    scores, _ = evaluate(train, test, NAMES, params.evaluate, CPU)
    # a quarter, with a standard error of 0.014 over 1,000 test points
    assert scores["knn"]["top1"] == pytest.approx(0.25, abs=0.06)
    assert scores["linear"]["top1"] == pytest.approx(0.25, abs=0.06)
    assert scores["linear_1pct"]["mean"] == pytest.approx(0.25, abs=0.06)
    assert scores["retrieval"]["precision_at_10"] == pytest.approx(0.25, abs=0.06)
    assert scores["retrieval"]["map"] == pytest.approx(0.25, abs=0.06)
    assert scores["retrieval"]["r_precision"] == pytest.approx(0.25, abs=0.06)
    assert scores["linear_16shot"]["mean"] == pytest.approx(0.25, abs=0.06)
    assert scores["clusters"]["ari"] == pytest.approx(0, abs=0.03)


def test_shuffled_labels_score_chance_on_everything(params: Params) -> None:
    """Features that tell the classes apart, and labels that do not go with them."""
    rng = np.random.default_rng(0)
    train, test = (
        Labelled(of.features, rng.permutation(of.labels)) for of in (clouds(300, 0.1, 0), clouds(250, 0.1, 1))
    )
    scores, _ = evaluate(train, test, NAMES, params.evaluate, CPU)
    figures = {
        "knn": "top1",
        "linear": "top1",
        "linear_1pct": "mean",
        "linear_10pct": "mean",
        "linear_5shot": "mean",
        "retrieval": "r_precision",
    }
    for protocol, figure in figures.items():
        assert scores[protocol][figure] == pytest.approx(0.25, abs=0.06), protocol
    assert scores["clusters"]["ari"] == pytest.approx(0, abs=0.03)


def test_of_five_classes_no_first_five_are_scored(params: Params) -> None:
    for num_classes, is_scored in ((5, False), (6, True)):
        train, test = (clouds(60, 0.5, seed, num_classes=num_classes) for seed in (0, 1))
        scores, _ = evaluate(train, test, NAMES, params.evaluate, CPU)
        for protocol in ("knn", "linear", "retrieval"):
            assert ("top5" in scores[protocol]) is is_scored


def test_many_of_one_class_do_not_look_good(params: Params) -> None:
    # 995 of 1,000 are of one class, and the other lies where the first does
    rng = np.random.default_rng(0)
    labels = np.array([0] * 995 + [1] * 5)
    train, test = (Labelled(rng.standard_normal((1000, 8)).astype(np.float32), labels) for _ in range(2))
    scores, _ = evaluate(train, test, NAMES, params.evaluate, CPU)
    for protocol in ("knn", "linear"):
        assert scores[protocol]["top1"] == pytest.approx(0.995, abs=0.002)
        assert scores[protocol]["balanced_accuracy"] == pytest.approx(0.5, abs=0.002)
        assert scores[protocol]["recall"] == pytest.approx({"a": 1.0, "b": 0.0}, abs=0.002)
    assert scores["linear_1pct"]["balanced_accuracy"] == pytest.approx(0.5, abs=0.05)
    assert scores["retrieval"]["balanced_accuracy"] == pytest.approx(0.5, abs=0.05)


def test_figures_of_a_classifier_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, answers = rng.integers(0, 7, (2, 300))
    labels[labels == 5] = 4  # a class that is not among the labels has no recall
    figures = class_figures(np.where(answers == labels, 0, 5), labels, [*"abcdefg"], 7)
    assert figures["top1"] == pytest.approx(accuracy_score(labels, answers))
    present = np.unique(labels)
    recalls = recall_score(labels, answers, labels=present, average=None)
    assert figures["recall"] == pytest.approx(
        {"abcdefg"[c]: r for c, r in zip(present, recalls, strict=True)}
    )
    assert figures["balanced_accuracy"] == pytest.approx(recalls.mean())
    assert figures["top5"] == figures["top1"]


def test_top5_is_left_out_where_five_answers_are_all_that_there_are(params: Params) -> None:
    """A sixth class that no training image is of is never answered: the first five are always all."""
    rng = np.random.default_rng(0)
    train, test = np.repeat(np.arange(5), 40), np.repeat(np.arange(6), 5)
    scores, _ = evaluate(
        Labelled(rng.standard_normal((200, 8), dtype=np.float32), train),
        Labelled(rng.standard_normal((30, 8), dtype=np.float32), test),
        [*"abcdef"],
        params.evaluate,
        CPU,
    )
    assert "top5" not in scores["knn"]
    assert "top5" not in scores["linear"]


def test_knn_on_points_made_by_hand() -> None:
    # on the circle: class 0 at 0 and 10 degrees, class 1 at 60, 62 and 64
    def points(*degrees: float) -> np.ndarray:  # type: ignore[type-arg]
        angles = np.radians(degrees)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    train = Labelled(points(0, 10, 60, 62, 64), np.array([0, 0, 1, 1, 1]))
    test = Labelled(points(5, 30), np.array([0, 0]))
    nearest_one, _ = score_knn(train, test, ["a", "b"], voters(k=1, temperature=0.1), CPU)
    assert nearest_one["top1"] == 1.0
    # with all five and no weights to speak of, the three of class 1 outvote the two
    assert score_knn(train, test, ["a", "b"], voters(k=5, temperature=1000.0), CPU)[0]["top1"] == 0.0
    # of fewer than k, all
    assert score_knn(train, test, ["a", "b"], voters(k=6, temperature=1000.0), CPU)[0]["top1"] == 0.0


def test_votes_are_chosen_on_a_part_of_the_training_images_and_never_on_the_test() -> None:
    train, test = clouds(60, 0.6, seed=0), clouds(60, 0.6, seed=1)
    grid = voters(k=[1, 5, 20, 60], temperature=[0.02, 0.1, 1.0])
    figures, _ = score_knn(train, test, NAMES, grid, CPU)
    bank, asked = split_stratified(train.labels, round(0.8 * len(train.labels)), grid.seed)
    best = (0.0, 0, 0.0)
    for k in grid.k:
        for temperature in grid.temperature:
            part = Labelled(train.features[bank], train.labels[bank])
            others = Labelled(train.features[asked], train.labels[asked])
            top1, _ = score_knn(part, others, NAMES, voters(k=k, temperature=temperature), CPU)
            best = max(best, (top1["top1"], k, temperature), key=lambda of: of[0])  # type: ignore[type-var]
    assert (figures["k"], figures["temperature"]) == best[1:]
    turned = Labelled(test.features, (test.labels + 1) % 4)
    of_turned, _ = score_knn(train, turned, NAMES, grid, CPU)
    assert (of_turned["k"], of_turned["temperature"]) == (figures["k"], figures["temperature"])
    alone, _ = score_knn(train, test, NAMES, voters(k=figures["k"], temperature=figures["temperature"]), CPU)
    assert alone == figures


def test_retrieval_is_that_of_slow_loops() -> None:
    train, test = (clouds(each, 0.7, each, num_classes=6) for each in (10, 5))
    features = np.concatenate([train.features, test.features])
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    labels = np.concatenate([train.labels, test.labels])
    nearest, precisions, average_precisions = [], [], []
    for query in range(60, 90):
        ranked = sorted((i for i in range(90) if i != query), key=lambda i: -features[i] @ features[query])
        nearest.append([any(labels[i] == labels[query] for i in ranked[:k]) for k in (1, 5)])
        precisions.append(sum(labels[i] == labels[query] for i in ranked[:10]) / 10)
        hits, total = 0, 0.0
        for rank, i in enumerate(ranked, start=1):
            if labels[i] == labels[query]:
                hits += 1
                total += hits / rank
        average_precisions.append(total / hits)
    scores, _, _ = score_retrieval(train, test, Retrieval(num_queries=1000, seed=0), CPU)
    assert [scores["top1"], scores["top5"]] == pytest.approx(np.mean(nearest, axis=0))
    assert 0 < scores["top1"] < scores["top5"] < 1  # type: ignore[operator]
    assert scores["precision_at_10"] == pytest.approx(np.mean(precisions))
    assert scores["map"] == pytest.approx(np.mean(average_precisions))


def test_a_query_does_not_find_itself() -> None:
    # one image of each class in test, none like it anywhere but itself
    train = Labelled(np.eye(3, dtype=np.float32), np.array([0, 1, 2]))
    test = Labelled(-np.eye(3, dtype=np.float32), np.array([0, 1, 2]))
    assert score_retrieval(train, test, Retrieval(num_queries=3, seed=0), CPU)[0]["map"] < 0.5  # type: ignore[operator]


def test_average_precision_is_scikit_learns() -> None:
    relevant = np.random.default_rng(0).random((5, 40)) < 0.3
    ranks = -np.arange(40)
    expected = [average_precision_score(row, ranks) for row in relevant]
    np.testing.assert_allclose([measures(row)["map"] for row in relevant], expected)


def test_retrieval_is_pytorch_metric_learnings() -> None:
    train, test = (clouds(each, 0.7, each, num_classes=6) for each in (20, 8))
    reference = Labelled(
        np.concatenate([test.features, train.features]), np.concatenate([test.labels, train.labels])
    )
    with pytest.MonkeyPatch.context() as patch:
        # it would put another search into FAISS for this whole process
        patch.setitem(sys.modules, "faiss.contrib.torch_utils", None)
        from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    oracle = AccuracyCalculator(k="max_bin_count", knn_func=exact_knn)
    expected = oracle.get_accuracy(
        torch.from_numpy(test.features),
        torch.from_numpy(test.labels),
        torch.from_numpy(reference.features),
        torch.from_numpy(reference.labels),
        ref_includes_query=True,
    )
    scores, _, _ = score_retrieval(train, test, Retrieval(num_queries=1000, seed=0), CPU)
    assert scores["map_at_r"] == pytest.approx(expected["mean_average_precision_at_r"], abs=1e-6)
    assert scores["r_precision"] == pytest.approx(expected["r_precision"], abs=1e-6)
    assert scores["top1"] == pytest.approx(expected["precision_at_1"], abs=1e-6)
    ranks = 1 + retrieve(train, test, Retrieval(num_queries=1000, seed=0), CPU).answers.ranks
    # it looks no further than R, and counts what comes later as not found
    assert (1 / ranks[ranks <= 27]).sum() / len(ranks) == pytest.approx(
        expected["mean_reciprocal_rank"], abs=1e-6
    )


def exact_knn(
    query: torch.Tensor, k: int, reference: torch.Tensor, includes_query: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Its own asks FAISS; the reference begins with the queries, as it wants it."""
    unit = torch.nn.functional.normalize
    cosines = unit(query.double()) @ unit(reference.double()).T
    if includes_query:
        cosines.fill_diagonal_(-torch.inf)
    return (found := cosines.topk(k, dim=1)).values, found.indices


def test_copies_of_a_query_are_no_answers_to_it() -> None:
    train, test = clouds(10, 0.7, seed=0), clouds(5, 0.7, seed=1)
    asked = Retrieval(num_queries=1000, seed=0)
    alone, _, _ = score_retrieval(train, test, asked, CPU)
    # every test image stands in training as well, once under its own label and once under another
    nearly = test.features + 0.01 * np.random.default_rng(3).standard_normal((2, 20, 8)).astype(np.float32)
    doubled = Labelled(
        np.concatenate([train.features, *nearly]),
        np.concatenate([train.labels, test.labels, (test.labels + 1) % 4]),
        np.concatenate([np.arange(40), 100 + np.arange(20), 100 + np.arange(20)]),
    )
    of_copies = Labelled(test.features, test.labels, 100 + np.arange(20))
    found = retrieve(doubled, of_copies, asked, CPU)
    assert len(found.queries) == 20
    # what others find is changed by copies too: R is; so by hand
    unit = doubled.features / np.linalg.norm(doubled.features, axis=1, keepdims=True)
    contents = np.concatenate([doubled.contents, of_copies.contents])  # type: ignore[list-item]
    every = np.concatenate([unit, test.features / np.linalg.norm(test.features, axis=1, keepdims=True)])
    labels = np.concatenate([doubled.labels, of_copies.labels])
    for place, query in enumerate(found.queries):
        others = np.flatnonzero(contents != contents[80 + query])
        ranked = others[np.argsort(-every[others] @ every[80 + query], kind="stable")]
        relevant = labels[ranked] == test.labels[query]
        assert found.answers.ranks[place] == relevant.argmax()
        for name, value in measures(relevant).items():
            assert found.figures[name][place] == pytest.approx(value, abs=1e-9), name
    assert alone["top1"] < 1  # type: ignore[operator]


def test_a_perfect_encoder_of_few_images_has_a_precision_of_one() -> None:
    """The query and its copies are among none of the ten."""
    train = Labelled(np.eye(2, dtype=np.float32).repeat(4, axis=0), np.arange(2).repeat(4))
    test = Labelled(np.eye(2, dtype=np.float32)[:1], np.array([0]))
    found = retrieve(train, test, Retrieval(num_queries=1, seed=0), CPU)
    assert found.figures["precision_at_10"].tolist() == [4 / 8]  # of its class there are four
    alone = Labelled(train.features[:4], train.labels[:4])
    found = retrieve(alone, test, Retrieval(num_queries=1, seed=0), CPU)
    assert found.figures["precision_at_10"].tolist() == [1.0]


def test_an_image_whose_class_has_only_copies_of_it_does_not_ask() -> None:
    np.testing.assert_array_equal(askable(np.array([0, 1]), np.array([0, 1]), np.array([5, 6, 5, 7])), [1])
    np.testing.assert_array_equal(askable(np.array([0, 1]), np.array([0, 1])), [0, 1])


@pytest.mark.parametrize("block_bytes", [1, 4 * 60 * 3])
def test_retrieval_in_blocks_is_that_of_one(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = clouds(10, 0.7, seed=0), clouds(5, 0.7, seed=1)
    asked = Retrieval(num_queries=1000, seed=0)
    whole, _, _ = score_retrieval(train, test, asked, CPU)
    monkeypatch.setattr(retrieval, "_BLOCK_BYTES", block_bytes)
    assert score_retrieval(train, test, asked, CPU)[0] == whole
