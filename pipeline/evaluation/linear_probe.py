"""A linear classifier of frozen features, with all of the labels or with few of them."""

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.evaluation.knn import topk_accuracy
from pipeline.evaluation.labelled import Labelled, Scores
from pipeline.params.evaluate import LinearProbe


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


def fit_probe(
    features: NDArray[np.float32], labels: NDArray[np.int64], C: float, max_iterations: int
) -> LogisticRegression:
    """Standardises the features and fits a multinomial logistic regression (L-BFGS, L2)."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=max_iterations))
    with warnings.catch_warnings():
        # stopping early is a regularisation like any other, and what it reaches is what is scored
        warnings.simplefilter("ignore", ConvergenceWarning)
        return probe.fit(features.astype(np.float64), labels)
