"""How good a representation is: kNN, linear probe and retrieval, on frozen features."""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.evaluation.knn import knn_scores, nearest, normalize, topk_accuracy
from pipeline.params.reader import Evaluate, Knn, LinearProbe, Retrieval

# Q queries, N images, D features

Scores = dict[str, float]

FEW_LABELS = {"linear_1pct": 0.01, "linear_10pct": 0.10}
_QUERIES_AT_ONCE = 256
_PRECISION_AT = 10


@dataclass(frozen=True)
class Labelled:
    """Features of labelled images: float32 [N, D], and their classes [N]."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]


def evaluate(train: Labelled, test: Labelled, params: Evaluate) -> dict[str, Scores]:
    """Every protocol on one subject.

    Args:
        train: what the protocols learn from or look among.
        test: what they are scored on; no choice is made by it.
        params: of the protocols.

    Returns:
        protocol -> figure -> value, fractions from 0 to 1. Few-label probes are left out where a class
        would have fewer than two labels.
    """
    num_classes = int(max(train.labels.max(), test.labels.max())) + 1
    scores = {
        "knn": score_knn(train, test, num_classes, params.knn),
        "linear": score_linear(train, test, params.linear, params.linear.seed),
    }
    for protocol, fraction in FEW_LABELS.items():
        if round(fraction * len(train.labels)) >= 2 * num_classes:
            scores[protocol] = score_few_labels(train, test, fraction, params.linear)
    return scores | {"retrieval": score_retrieval(train, test, params.retrieval)}


def score_knn(train: Labelled, test: Labelled, num_classes: int, params: Knn) -> Scores:
    """Weighted kNN: `top1` and `top5`. The bank is the training set, so no test image finds itself.

    Raises:
        UserError: k is larger than the training set.

    Source: Wu et al. 2018, arXiv:1805.01978, sec. 3.4.
    """
    similarities, rows = nearest(normalize(test.features), normalize(train.features), params.k)
    votes = knn_scores(similarities, train.labels[rows], num_classes, params.temperature)
    return {f"top{k}": topk_accuracy(votes, test.labels, k) for k in (1, 5)}


def score_linear(train: Labelled, test: Labelled, params: LinearProbe, seed: int) -> Scores:
    """Linear probe: `top1` and `top5` of a multinomial logistic regression on standardised features.

    C is the one that does best on a stratified validation part of the training set (the strongest
    regularisation of equals); then the probe learns from the whole training set.
    """
    num_validation = max(len(np.unique(train.labels)), round(params.validation_fraction * len(train.labels)))
    fit, validation = split_stratified(train.labels, num_validation, seed)
    Cs = sorted(params.C)
    accuracies = [
        fit_probe(train.features[fit], train.labels[fit], C, params.max_iterations).score(
            train.features[validation], train.labels[validation]
        )
        for C in (Cs if len(validation) else [])
    ]
    best_C = Cs[int(np.argmax(accuracies))] if accuracies else Cs[0]
    probe = fit_probe(train.features, train.labels, best_C, params.max_iterations)
    scores = probe.predict_proba(test.features)
    # column of the class, or -1: a class that the probe has never seen is a miss
    columns = {label: column for column, label in enumerate(probe.classes_)}
    labels = np.array([columns.get(label, -1) for label in test.labels])
    return {f"top{k}": topk_accuracy(scores, labels, k) for k in (1, 5)}


def score_few_labels(train: Labelled, test: Labelled, fraction: float, params: LinearProbe) -> Scores:
    """The linear probe with a share of the labels: `mean` and `std` of top-1 over stratified draws."""
    accuracies = []
    for seed in params.few_label_seeds:
        num_others = len(train.labels) - round(fraction * len(train.labels))
        rows, _ = split_stratified(train.labels, num_others, seed)
        few = Labelled(train.features[rows], train.labels[rows])
        accuracies.append(score_linear(few, test, params, seed)["top1"])
    return {"mean": float(np.mean(accuracies)), "std": float(np.std(accuracies, ddof=1))}


def split_stratified(
    labels: NDArray[np.int64], num_second: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows in two parts, each with its share of every class; a class of one image stays in the first.

    Args:
        labels: [N].
        num_second: wanted in the second part; it is kept from the number of classes up and leaves as many to
            the first, which is what scikit-learn asks for.
        seed: of the draw.

    Returns:
        Rows of the first and of the second part; the second is empty where no class has two images.
    """
    _, class_of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    alone = counts[class_of] == 1
    rows = np.flatnonzero(~alone)
    if len(rows) == 0:
        return np.arange(len(labels)), rows
    num_classes = int((counts > 1).sum())
    num_second = min(max(num_second, num_classes), len(rows) - num_classes)
    first, second = train_test_split(
        rows,
        train_size=len(rows) - num_second,
        test_size=num_second,
        stratify=labels[rows],
        random_state=seed,
    )
    return np.concatenate([first, np.flatnonzero(alone)]), second


def score_retrieval(train: Labelled, test: Labelled, params: Retrieval) -> Scores:
    """Test images ask the whole collection for their like, and never find themselves.

    Returns:
        `top1` and `top5`: whether the nearest, or one of the five nearest, is of the query's class;
        `precision_at_10`: the share of the ten nearest that are; `map`: the mean over
        the queries of the average precision over the whole ranking (Manning et al. 2008, Introduction to
        Information Retrieval, sec. 8.4). Queries whose class has no other image are left out.
    """
    features = normalize(np.concatenate([train.features, test.features]))
    labels = np.concatenate([train.labels, test.labels])
    num_queries = min(params.num_queries, len(test.labels))
    rng = np.random.default_rng(params.seed)
    queries = len(train.labels) + np.sort(rng.choice(len(test.labels), num_queries, replace=False))
    hits, precisions, average_precisions = [], [], []
    for start in range(0, num_queries, _QUERIES_AT_ONCE):
        rows = queries[start : start + _QUERIES_AT_ONCE]
        similarity = features[rows] @ features.T
        similarity[np.arange(len(rows)), rows] = -np.inf  # itself: last, and cut off below
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :-1]
        relevant = labels[order] == labels[rows][:, None]
        relevant = relevant[relevant.any(axis=1)]
        hits.append(np.stack([relevant[:, :k].any(axis=1) for k in (1, 5)], axis=1))
        precisions.append(relevant[:, :_PRECISION_AT].mean(axis=1))
        average_precisions.append(average_precision(relevant))
    top1, top5 = np.concatenate(hits).mean(axis=0).tolist()
    return {
        "top1": top1,
        "top5": top5,
        "precision_at_10": float(np.concatenate(precisions).mean()),
        "map": float(np.concatenate(average_precisions).mean()),
    }


def average_precision(relevant: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean of the precisions at the ranks of the relevant, [Q, N] ranked from the best -> [Q]."""
    precision = np.cumsum(relevant, axis=1) / np.arange(1, relevant.shape[1] + 1)
    return np.asarray((precision * relevant).sum(axis=1) / relevant.sum(axis=1), dtype=np.float64)


def fit_probe(
    features: NDArray[np.float32], labels: NDArray[np.int64], C: float, max_iterations: int
) -> LogisticRegression:
    """Standardises the features and fits a multinomial logistic regression (L-BFGS, L2)."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=max_iterations))
    with warnings.catch_warnings():
        # stopping early is a regularisation like any other, and what it reaches is what is scored
        warnings.simplefilter("ignore", ConvergenceWarning)
        return probe.fit(features.astype(np.float64), labels)
