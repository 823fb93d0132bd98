"""Every protocol that scores a representation: kNN, linear probes and retrieval, on frozen features."""

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.evaluation.coverage import FEW_LABELS, left_out
from pipeline.evaluation.figures import class_figures
from pipeline.evaluation.knn import knn_ranks
from pipeline.evaluation.labelled import Labelled, Scores
from pipeline.evaluation.linear_probe import score_few_labels, score_linear
from pipeline.evaluation.retrieval import score_retrieval
from pipeline.params.evaluate import Evaluate, Knn


def evaluate(
    train: Labelled, test: Labelled, class_names: Sequence[str], params: Evaluate, device: torch.device
) -> dict[str, Scores]:
    """Every protocol on one subject, but for those that the labels do not allow (`coverage.left_out`).

    Args:
        train: what the protocols learn from or look among.
        test: what they are scored on; no choice is made by it.
        class_names: by label.
        params: of the protocols.
        device: to compute on.

    Returns:
        protocol -> figure -> value.

    Raises:
        UserError: `evaluate.knn.k` is larger than the training set.
    """
    without = left_out(train.labels, test.labels)
    # the classes that stand here alone, numbered from 0
    present, numbers = np.unique(np.concatenate([train.labels, test.labels]), return_inverse=True)
    names = [class_names[label] for label in present]
    train = Labelled(train.features, numbers[: len(train.labels)])
    test = Labelled(test.features, numbers[len(train.labels) :])
    scores: dict[str, Scores] = {}
    if "knn" not in without:
        scores["knn"] = score_knn(train, test, names, params.knn, device)
    if "linear" not in without:
        scores["linear"] = score_linear(train, test, names, params.linear, device)
    for protocol, fraction in FEW_LABELS.items():
        if protocol not in without:
            scores[protocol] = score_few_labels(train, test, fraction, params.linear, device)
    if "retrieval" not in without:
        scores["retrieval"] = score_retrieval(train, test, params.retrieval, device)
    return scores


def score_knn(
    train: Labelled, test: Labelled, class_names: Sequence[str], params: Knn, device: torch.device
) -> Scores:
    """Weighted kNN, the figures of `class_figures`. The bank is the training set: no image finds itself.

    Raises:
        UserError: k is larger than the training set.

    Source: Wu et al. 2018, arXiv:1805.01978, sec. 3.4.
    """
    params.check_bank(len(train.labels))
    ranks = knn_ranks(
        test.features,
        test.labels,
        train.features,
        train.labels,
        num_classes=len(class_names),
        k=params.k,
        temperature=params.temperature,
        device=device,
    )
    return class_figures(ranks, test.labels, class_names, len(np.unique(train.labels)))
