"""Labels that neighbours and a classifier would not have given."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.arrays import slices
from pipeline.evaluation.findings.table import Finding
from pipeline.evaluation.labelled import Rows
from pipeline.evaluation.probes.draws import split_in_folds, split_stratified
from pipeline.evaluation.probes.logistic import fit_logistic

# N labelled images, K classes

_FOLDS = 5
_MOST_ROWS = 20_000  # that a fold's classifier learns from
_ASKED_AT_ONCE = 20_480
_KEPT_SHARE, _MOST_KEPT = 0.1, 10_000
_SEED = 0


def label_errors(
    features: Rows,
    labels: NDArray[np.int64],
    ids: NDArray[np.int64],
    neighbors: NDArray[np.integer],
    class_names: Sequence[str],
    C: float,
    max_iterations: int,
    device: torch.device,
) -> list[Finding]:
    """The labels least likely to be right: the surest tenth of those that could be wrong, at most 10,000.

    The score is one minus the mean of two shares of the given class: among the labelled of the nearest, and
    in the probabilities of a logistic regression that has not seen the image. A class of one image is not
    judged: nothing else knows what it looks like.

    Args:
        features: of the labelled images, those of train and test together, [N, D].
        labels: theirs, [N].
        ids: theirs in the manifest, [N], rising.
        neighbors: ids of the nearest others of every image of the collection; -1 where there are no more.
        class_names: by label.
        C: inverse strength of the classifier's regularisation.
        max_iterations: of its fit.
        device: that fits.

    Source: Northcutt et al. 2021, Confident Learning, arXiv:1911.00068 (out-of-fold probabilities).
    """
    classes, columns, counts = np.unique(labels, return_inverse=True, return_counts=True)
    judged = np.flatnonzero(counts[columns] > 1)
    if len(classes) < 2 or len(judged) == 0:
        return []
    label_of = np.full(len(neighbors) + 1, -1)  # the last is asked for by -1
    label_of[ids] = columns
    scores, agree, sure = np.zeros((3, len(columns)))
    others = np.zeros(len(columns), dtype=np.int64)  # what else each could be
    for rows, probabilities in out_of_fold(features, columns, C, max_iterations, device):
        votes = _votes(label_of[neighbors[ids[rows]]], len(classes))
        has_votes = votes.any(axis=1, keepdims=True)
        said = np.where(has_votes, (votes + probabilities) / 2, probabilities)
        here = np.arange(len(rows))
        scores[rows] = 1 - said[here, columns[rows]]
        said[here, columns[rows]] = -1
        others[rows] = said.argmax(axis=1)
        agree[rows], sure[rows] = votes[here, others[rows]], probabilities[here, others[rows]]
    num_kept = min(_MOST_KEPT, int(np.ceil(_KEPT_SHARE * len(columns))))
    surest = judged[np.argsort(-scores[judged], kind="stable")][:num_kept]

    def why(row: int) -> str:
        given, other = (class_names[classes[column]] for column in (columns[row], others[row]))
        return (
            f"labelled {given}; {agree[row]:.0%} of its neighbours are {other}, "
            f"a classifier is {sure[row]:.0%} sure"
        )

    return [Finding("label", (int(ids[row]),), float(scores[row]), why(row)) for row in surest]


def _votes(neighbor_labels: NDArray[np.int64], num_classes: int) -> NDArray[np.float32]:
    """The shares of the classes among neighbours, [Q, K], of labels [Q, k]; -1 where one has none."""
    votes = np.zeros((len(neighbor_labels), num_classes), dtype=np.float32)
    rows, places = np.nonzero(neighbor_labels >= 0)
    np.add.at(votes, (rows, neighbor_labels[rows, places]), 1)
    votes /= np.maximum(votes.sum(axis=1, keepdims=True), 1)
    return votes


def out_of_fold(
    features: Rows, labels: NDArray[np.int64], C: float, max_iterations: int, device: torch.device
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """The probability of each class for each image, by a classifier of the four folds without it.

    Args:
        features: [N, D].
        labels: from 0 to K - 1, [N].
        C: inverse strength of the regularisation.
        max_iterations: of a fit.
        device: that fits.

    Yields:
        Some rows, and of each the probabilities, [len(rows), K]; every row once.
    """
    num_classes = int(labels.max()) + 1
    folds = split_in_folds(labels, _FOLDS, _SEED)
    for fold in range(_FOLDS):
        asked, seen = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        if not len(asked):
            continue
        seen = seen[split_stratified(labels[seen], min(_MOST_ROWS, len(seen)), _SEED)[0]]
        known, columns = np.unique(labels[seen], return_inverse=True)
        # the rows of `seen` alone, since a class of one image has no column when that is held out
        of_seen, every = features[seen], [np.arange(len(seen))]
        fitted = fit_logistic(of_seen, columns, every, np.array([[C]]), max_iterations, device)
        for part in slices(len(asked), _ASKED_AT_ONCE):
            for block, logits in fitted.scores(features[asked[part]], 0):
                weights = np.exp(logits[0] - logits[0].max(axis=1, keepdims=True))
                found = np.zeros((len(weights), num_classes), dtype=np.float32)
                found[:, known] = weights / weights.sum(axis=1, keepdims=True)
                yield asked[part][block], found
