"""Weighted kNN as a protocol: how many vote, and how sharply, is chosen among the training images."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.evaluation.figures import class_figures
from pipeline.evaluation.knn import nearest, voted
from pipeline.evaluation.labelled import Answers, Labelled, Scores
from pipeline.evaluation.probes.draws import split_stratified
from pipeline.params.evaluate import Knn

_MOST_ASKED = 5_000  # images of the validation part; by so many an accuracy is known to 0.7 points


def score_knn(
    train: Labelled, test: Labelled, class_names: Sequence[str], params: Knn, device: torch.device
) -> tuple[Scores, Answers]:
    """Weighted kNN: the figures of `class_figures`, `k` and `temperature`; the answer about each test image.

    The bank is the training set: no image finds itself. Where it is smaller than k, all of it votes. Of the
    numbers of neighbours and temperatures in `params` the best on a validation part of the training images
    are taken; test images choose nothing.

    Source: Wu et al. 2018, arXiv:1805.01978, sec. 3.4.
    """
    k, temperature = choose(train, len(class_names), params, device)
    similarities, rows = nearest(test.features, train.features, min(k, len(train.labels)), device)
    answers = voted(similarities, train.labels[rows], test.labels, len(class_names), temperature)
    figures = class_figures(answers.ranks, test.labels, class_names, len(np.unique(train.labels)))
    recall = figures.pop("recall")
    return figures | {"k": k, "temperature": temperature, "recall": recall}, answers


def choose(train: Labelled, num_classes: int, params: Knn, device: torch.device) -> tuple[int, float]:
    """The k and the temperature with most of a validation part right; of equals the first in `params`.

    The validation part is stratified, and what it asks is the rest. Without an image to spare there is no
    choice, and the first of each are taken.
    """
    grid = list(product(params.k, params.temperature))
    num_asked = min(_MOST_ASKED, round(params.validation_fraction * len(train.labels)))
    bank, asked = split_stratified(train.labels, len(train.labels) - num_asked, params.seed)
    if len(grid) == 1 or not len(asked):
        return grid[0]
    similarities, rows = nearest(
        train.features[asked], train.features[bank], min(max(params.k), len(bank)), device
    )
    neighbor_labels, labels = train.labels[bank][rows], train.labels[asked]
    right: list[NDArray[np.bool_]] = []
    for k, temperature in grid:
        votes = voted(similarities[:, :k], neighbor_labels[:, :k], labels, num_classes, temperature)
        right.append(votes.ranks < 1)
    return grid[int(np.argmax([of_pair.mean() for of_pair in right]))]
