"""What a classifier did, as figures that many images of one class cannot flatter."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.labelled import Scores

TOP5_FROM = 6  # classes; of five, one among the first five is always right


def class_figures(
    ranks: NDArray[np.int64], labels: NDArray[np.int64], class_names: Sequence[str], num_known: int
) -> Scores:
    """Figures of a classifier's answers.

    Args:
        ranks: how many classes it put before the right one, [Q] (`pipeline.evaluation.labelled.Answers`).
        labels: the right ones, [Q], at least one.
        class_names: of every class that stands among the labelled images, by label.
        num_known: classes of the images that it learned from: no other is ever an answer.

    Returns:
        `top1`; `top5`, of more than five known classes; `balanced_accuracy`, the mean of the recalls;
        `recall`, of each class that is among the labels, by its name.
    """
    scores: Scores = {"top1": float((ranks < 1).mean())}
    if num_known >= TOP5_FROM:
        scores["top5"] = float((ranks < 5).mean())
    return scores | {
        "balanced_accuracy": mean_recall(ranks, labels),
        "recall": {class_names[label]: value for label, value in recalls(ranks, labels).items()},
    }


def recalls(ranks: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[int, float]:
    """Of each class among the labels, the share of rank 0."""
    return {int(label): float((ranks[labels == label] < 1).mean()) for label in np.unique(labels)}


def mean_recall(ranks: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Balanced accuracy: the mean over the classes among the labels of the share of rank 0."""
    return float(np.mean(list(recalls(ranks, labels).values())))
