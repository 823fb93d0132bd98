"""A linear classifier of frozen features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.evaluation.figures import class_figures
from pipeline.evaluation.knn import answers_of, joined
from pipeline.evaluation.labelled import Answers, Labelled, Scores
from pipeline.evaluation.probes.draws import split_stratified
from pipeline.evaluation.probes.logistic import fit_logistic
from pipeline.params.evaluate import LinearProbe


@dataclass(frozen=True)
class Probe:
    """What became of one probe.

    Attributes:
        answers: of each test image.
        C: the inverse strength of its regularisation.
        iterations: of its fit.
        converged: whether that was solved, and so were those that it was chosen among.
    """

    answers: Answers
    C: float
    iterations: int
    converged: bool


def score_linear(
    train: Labelled, test: Labelled, class_names: Sequence[str], params: LinearProbe, device: torch.device
) -> tuple[Scores, Answers]:
    """Linear probe: a multinomial logistic regression learns from every training image.

    Returns:
        The figures of `class_figures`, `C`, `iterations` and `converged`; the answer about each test image.
    """
    (probe,) = probes(train, test, [np.arange(len(train.labels))], [params.seed], params, device)
    figures = class_figures(probe.answers.ranks, test.labels, class_names, len(np.unique(train.labels)))
    recall = figures.pop("recall")
    solved: Scores = {"C": probe.C, "iterations": probe.iterations, "converged": probe.converged}
    return figures | solved | {"recall": recall}, probe.answers


def probes(
    train: Labelled,
    test: Labelled,
    draws: Sequence[NDArray[np.int64]],
    seeds: Sequence[int],
    params: LinearProbe,
    device: torch.device,
) -> list[Probe]:
    """A probe of each draw of training images, all of them fitted together.

    C is the one that has most of a stratified validation part of the draw right, of equals the strongest
    regularisation; then the probe learns from the whole draw. Test images choose nothing.

    Args:
        train: what is drawn from.
        test: what is scored.
        draws: rows of `train`, as many in each; every class of `train` is among them.
        seeds: of the validation part of each.
        params: of the probe.
        device: that fits.
    """
    # a column a class of `train`: one that it has not is a miss
    classes = np.unique(train.labels)
    columns = np.searchsorted(classes, train.labels)
    test_columns = np.where(np.isin(test.labels, classes), np.searchsorted(classes, test.labels), -1)
    strengths = np.sort(np.array(params.C, dtype=np.float64))
    chosen, are_solved = _choose(Labelled(train.features, columns), draws, seeds, strengths, params, device)
    fitted = fit_logistic(
        train.features, columns, draws, strengths[chosen][:, None], params.max_iterations, device
    )
    found = []
    for number, choice in enumerate(chosen):
        said = joined(
            [
                answers_of(scores[0], test_columns[block])
                for block, scores in fitted.scores(test.features, number)
            ]
        )
        answers = Answers(classes[said.predicted], said.ranks)
        is_solved = bool(fitted.converged[number, 0] and are_solved[number])
        found.append(Probe(answers, float(strengths[choice]), int(fitted.iterations[number, 0]), is_solved))
    return found


def _choose(
    train: Labelled,
    draws: Sequence[NDArray[np.int64]],
    seeds: Sequence[int],
    strengths: NDArray[np.float64],
    params: LinearProbe,
    device: torch.device,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For each draw the place of the best strength, the smallest of equals; whether its fits converged."""
    if len(strengths) == 1:
        return np.zeros(len(draws), dtype=np.int64), np.ones(len(draws), dtype=np.bool_)
    num_classes, num_rows = len(np.unique(train.labels)), len(draws[0])
    num_validation = max(num_classes, round(params.validation_fraction * num_rows))
    halves = [
        [draw[part] for part in split_stratified(train.labels[draw], num_rows - num_validation, seed)]
        for draw, seed in zip(draws, seeds, strict=True)
    ]
    fits = [fit for fit, _ in halves]
    every = np.tile(strengths, (len(draws), 1))
    tried = fit_logistic(train.features, train.labels, fits, every, params.max_iterations, device)
    num_right = np.zeros(every.shape, dtype=np.int64)
    for number, (_, validation) in enumerate(halves):
        for block, scores in tried.scores(train.features[validation], number):
            is_right = scores.argmax(axis=2) == train.labels[validation][block]
            num_right[number] += is_right.sum(axis=1)
    return num_right.argmax(axis=1), np.asarray(tried.converged.all(axis=1))
