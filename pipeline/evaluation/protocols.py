"""Every protocol that scores a representation by labels: kNN, linear probes, retrieval, clusters."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.evaluation.coverage import SHARES, SHOTS, left_out
from pipeline.evaluation.intervals import headline
from pipeline.evaluation.label_free.clusters import cluster_figures
from pipeline.evaluation.labelled import NOTHING, Answers, Labelled, Outcomes, Scores
from pipeline.evaluation.probes.few_labels import score_few_labels
from pipeline.evaluation.probes.linear_probe import score_linear
from pipeline.evaluation.probes.weighted_knn import score_knn
from pipeline.evaluation.retrieval import contents_of, score_retrieval
from pipeline.params.evaluate import Evaluate


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
    without = left_out(train.labels, test.labels, contents_of(train, test))
    # the classes that stand here alone, numbered from 0
    present, numbers = np.unique(np.concatenate([train.labels, test.labels]), return_inverse=True)
    names = [class_names[label] for label in present]
    num_train = len(train.labels)
    train = replace(train, labels=numbers[:num_train])
    test = replace(test, labels=numbers[num_train:])
    scores: dict[str, Scores] = {}
    outcomes: dict[str, Outcomes] = {}
    every = np.arange(len(test.labels))
    if "knn" not in without:
        scores["knn"], answers = score_knn(train, test, names, params.knn, device)
        outcomes["knn"] = _outcomes(every, answers, present)
    if "linear" not in without:
        scores["linear"], answers = score_linear(train, test, names, params.linear, device)
        outcomes["linear"] = _outcomes(every, answers, present)
    for protocol in (*SHARES, *SHOTS):
        if protocol not in without:
            scores[protocol] = score_few_labels(train, test, protocol, params.linear, device)
    if "retrieval" not in without:
        scores["retrieval"], queries, answers = score_retrieval(train, test, params.retrieval, device)
        outcomes["retrieval"] = _outcomes(queries, answers, present)
    for protocol, found in outcomes.items():
        scores[protocol] = {
            **headline("top1", found.correct, test.leaked_of(found.rows)),
            **scores[protocol],
        }
    if "clusters" not in without:
        scores["clusters"] = cluster_figures(test)
    return scores, outcomes


def _outcomes(rows: NDArray[np.int64], answers: Answers, labels: NDArray[np.int64]) -> Outcomes:
    """Answers among the classes that are there, numbered from 0, as answers among all."""
    predicted = np.where(answers.predicted == NOTHING, NOTHING, labels[answers.predicted])
    return Outcomes(rows, predicted, answers.ranks < 1)
