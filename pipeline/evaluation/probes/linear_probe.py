"""A linear classifier of frozen features, with all of the labels or with few of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.evaluation.figures import class_figures, mean_recall
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


def score_few_labels(
    train: Labelled, test: Labelled, fraction: float, params: LinearProbe, device: torch.device
) -> Scores:
    """The linear probe with a share of the labels, of every class at least one.

    Returns:
        `mean` and `std` of top-1 over the draws, the mean of their `balanced_accuracy`, and whether all
        `converged`.
    """
    num_drawn = round(fraction * len(train.labels))
    draws = [split_stratified(train.labels, num_drawn, seed)[0] for seed in params.few_label_seeds]
    found: list[Probe] = []
    # as many at once as have together no more rows than the training set
    at_once = max(1, len(train.labels) // len(draws[0]))
    for start in range(0, len(draws), at_once):
        these = slice(start, start + at_once)
        found += probes(train, test, draws[these], params.few_label_seeds[these], params, device)
    top1 = [(probe.answers.ranks < 1).mean() for probe in found]
    return {
        "mean": float(np.mean(top1)),
        "std": float(np.std(top1, ddof=1)),
        "balanced_accuracy": float(
            np.mean([mean_recall(probe.answers.ranks, test.labels) for probe in found])
        ),
        "converged": all(probe.converged for probe in found),
    }


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
