"""Every protocol that scores a representation: kNN, linear probes and retrieval, on frozen features."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.evaluation.coverage import FEW_LABELS, left_out
from pipeline.evaluation.figures import class_figures
from pipeline.evaluation.knn import knn_answers
from pipeline.evaluation.labelled import NOTHING, Answers, Labelled, Outcomes, Scores
from pipeline.evaluation.probes.linear_probe import score_few_labels, score_linear
from pipeline.evaluation.retrieval import score_retrieval
from pipeline.params.evaluate import Evaluate, Knn


def evaluate(
    train: Labelled, test: Labelled, class_names: Sequence[str], params: Evaluate, device: torch.device
) -> tuple[dict[str, Scores], dict[str, Outcomes]]:
    """Every protocol on one subject, but for those that the labels do not allow (`coverage.left_out`).

    Args:
        train: what the protocols learn from or look among.
        test: what they are scored on; no choice is made by it.
        class_names: by label.
        params: of the protocols.
        device: to compute on.

    Returns:
        protocol -> figure -> value; and what was said of each image, but for the protocols of few labels,
        which say something else with each draw.
    """
    without = left_out(train.labels, test.labels)
    # the classes that stand here alone, numbered from 0
    present, numbers = np.unique(np.concatenate([train.labels, test.labels]), return_inverse=True)
    names = [class_names[label] for label in present]
    train = Labelled(train.features, numbers[: len(train.labels)])
    test = Labelled(test.features, numbers[len(train.labels) :])
    scores: dict[str, Scores] = {}
    outcomes: dict[str, Outcomes] = {}
    every = np.arange(len(test.labels))
    if "knn" not in without:
        scores["knn"], answers = score_knn(train, test, names, params.knn, device)
        outcomes["knn"] = _outcomes(every, answers, present)
    if "linear" not in without:
        scores["linear"], answers = score_linear(train, test, names, params.linear, device)
        outcomes["linear"] = _outcomes(every, answers, present)
    for protocol, fraction in FEW_LABELS.items():
        if protocol not in without:
            scores[protocol] = score_few_labels(train, test, fraction, params.linear, device)
    if "retrieval" not in without:
        scores["retrieval"], queries, answers = score_retrieval(train, test, params.retrieval, device)
        outcomes["retrieval"] = _outcomes(queries, answers, present)
    return scores, outcomes


def score_knn(
    train: Labelled, test: Labelled, class_names: Sequence[str], params: Knn, device: torch.device
) -> tuple[Scores, Answers]:
    """Weighted kNN: the figures of `class_figures`, and the answer about each test image.

    The bank is the training set: no image finds itself. Where it is smaller than k, all of it votes.

    Source: Wu et al. 2018, arXiv:1805.01978, sec. 3.4.
    """
    answers = knn_answers(
        test.features,
        test.labels,
        train.features,
        train.labels,
        num_classes=len(class_names),
        k=min(params.k, len(train.labels)),
        temperature=params.temperature,
        device=device,
    )
    num_known = len(np.unique(train.labels))
    return class_figures(answers.ranks, test.labels, class_names, num_known), answers


def _outcomes(rows: NDArray[np.int64], answers: Answers, labels: NDArray[np.int64]) -> Outcomes:
    """Answers among the classes that are there, numbered from 0, as answers among all."""
    predicted = np.where(answers.predicted == NOTHING, NOTHING, labels[answers.predicted])
    return Outcomes(rows, predicted, answers.ranks < 1)
