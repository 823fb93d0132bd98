"""The linear probe with few labels: how far the representation carries each of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.evaluation.coverage import SHARES, SHOTS
from pipeline.evaluation.figures import mean_recall
from pipeline.evaluation.intervals import headline
from pipeline.evaluation.labelled import Labelled, Scores
from pipeline.evaluation.probes.draws import draw_of_each_class, split_stratified
from pipeline.evaluation.probes.linear_probe import Probe, probes
from pipeline.params.evaluate import LinearProbe


def score_few_labels(
    train: Labelled, test: Labelled, protocol: str, params: LinearProbe, device: torch.device
) -> Scores:
    """The linear probe with a share of the labels, of every class at least one, or with so many of each.

    Args:
        train: what is drawn from.
        test: what is scored.
        protocol: one of `SHARES` or `SHOTS`.
        params: of the probe, and the seeds of the draws.
        device: that fits.

    Returns:
        `mean` and `std` of top-1 over the draws; `mean_low` and `mean_high`, the interval of the mean over
        the test images; `mean_without_pairs`; the mean of `balanced_accuracy`; `num_images` of a draw;
        whether all `converged`.
    """
    draws = [_draw(train.labels, protocol, seed) for seed in params.few_label_seeds]
    found: list[Probe] = []
    # as many at once as have together no more rows than the training set
    at_once = max(1, len(train.labels) // len(draws[0]))
    for start in range(0, len(draws), at_once):
        these = slice(start, start + at_once)
        found += probes(train, test, draws[these], params.few_label_seeds[these], params, device)
    is_right = np.array([probe.answers.ranks < 1 for probe in found])
    return {
        **headline("mean", is_right.mean(axis=0), test.leaked),
        "std": float(np.std(is_right.mean(axis=1), ddof=1)),
        "balanced_accuracy": float(
            np.mean([mean_recall(probe.answers.ranks, test.labels) for probe in found])
        ),
        "num_images": len(draws[0]),
        "converged": all(probe.converged for probe in found),
    }


def _draw(labels: NDArray[np.int64], protocol: str, seed: int) -> NDArray[np.int64]:
    if protocol in SHOTS:
        return draw_of_each_class(labels, SHOTS[protocol], seed)
    return split_stratified(labels, round(SHARES[protocol] * len(labels)), seed)[0]


def curves(figures: Mapping[str, Any], num_train: int, subjects: Sequence[str]) -> list[dict[str, Any]]:
    """What each subject makes of how many labels, as rows of a table: a curve a subject, all labels last.

    Args:
        figures: of the metrics, subject -> protocol -> figure.
        num_train: labelled training images.
        subjects: of which there may be figures.

    Returns:
        Rows of subject, num_images, mean, low and high.
    """
    rows = []
    for subject in subjects:
        of = figures.get(subject, {})
        points = {
            of[name]["num_images"]: [of[name][figure] for figure in ("mean", "mean_low", "mean_high")]
            for name in (*SHARES, *SHOTS)
            if name in of
        }
        if "linear" in of:
            points[num_train] = [of["linear"][figure] for figure in ("top1", "top1_low", "top1_high")]
        rows += [
            {"subject": subject, "num_images": count, "mean": mean, "low": low, "high": high}
            for count, (mean, low, high) in sorted(points.items())
        ]
    return rows
