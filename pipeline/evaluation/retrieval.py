"""Images ask the collection for their like: how many of the nearest are of their class."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.evaluation.figures import TOP5_FROM, mean_recall
from pipeline.evaluation.knn import joined, normalize
from pipeline.evaluation.labelled import Answers, Labelled, Scores
from pipeline.params.evaluate import Retrieval

# Q queries, N images

_BLOCK_BYTES = 64 << 20  # of similarities
_ROWS_AT_ONCE = 1 << 14  # of the collection that are compared
_PRECISION_AT = 10


def askable(train_labels: NDArray[np.int64], test_labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of test images whose class has another image: without one there is nothing to find."""
    classes, counts = np.unique(np.concatenate([train_labels, test_labels]), return_counts=True)
    return np.flatnonzero(np.isin(test_labels, classes[counts > 1]))


def score_retrieval(
    train: Labelled, test: Labelled, params: Retrieval, device: torch.device
) -> tuple[Scores, NDArray[np.int64], Answers]:
    """Test images ask the whole collection for their like, and never find themselves.

    The whole of it is ranked for each query, as many at once as have `_BLOCK_BYTES` of similarities: 1,000
    queries among 1,010,000 x 128 held 444 MiB more than these (`python -m benchmarks.neighbors`).

    Args:
        train: none of it asks.
        test: at least one of them has another image of its class.
        params: how many ask.
        device: that compares and ranks.

    Returns:
        `top1` and, of more than five classes, `top5`: whether the nearest, or one of the five nearest, is of
        the query's class; `balanced_accuracy`: the mean of `top1` over the queries' classes;
        `precision_at_10`: the share of the ten nearest that are; `map`: the mean over the queries of the
        average precision over the whole ranking (Manning et al. 2008, Introduction to Information Retrieval,
        sec. 8.4). Only images ask whose class has another. Then the rows of the test images that asked, and
        of each the class of its nearest.
    """
    labels = np.concatenate([train.labels, test.labels])
    can_ask = askable(train.labels, test.labels)
    rng = np.random.default_rng(params.seed)
    queries = np.sort(rng.choice(can_ask, min(params.num_queries, len(can_ask)), replace=False))
    label_of = torch.from_numpy(labels).to(device)
    answers, precisions, average_precisions = [], [], []
    at_once = max(1, _BLOCK_BYTES // (4 * len(labels)))
    for start in range(0, len(queries), at_once):
        rows = queries[start : start + at_once]
        itself = torch.from_numpy(len(train.labels) + rows).to(device)[:, None]
        similarity = cosines(test.features[rows], (train.features, test.features), device)
        similarity.scatter_(1, itself, -torch.inf)  # last, and cut off below
        order = similarity.sort(dim=1, descending=True, stable=True).indices[:, :-1]
        relevant = (label_of[order] == label_of[itself]).cpu().numpy()
        nearest = labels[order[:, 0].cpu().numpy()]
        answers.append(Answers(nearest, relevant.argmax(axis=1)))
        precisions.append(relevant[:, :_PRECISION_AT].mean(axis=1))
        average_precisions += [average_precision(of_query) for of_query in relevant]
    found = joined(answers)
    scores: Scores = {"top1": float((found.ranks < 1).mean())}
    if len(np.unique(labels)) >= TOP5_FROM:
        scores["top5"] = float((found.ranks < 5).mean())
    scores |= {
        "balanced_accuracy": mean_recall(found.ranks, test.labels[queries]),
        "precision_at_10": float(np.concatenate(precisions).mean()),
        "map": float(np.mean(average_precisions)),
    }
    return scores, queries, found


def cosines(
    queries: NDArray[np.float32], banks: Sequence[NDArray[np.float32]], device: torch.device
) -> Tensor:
    """Of [Q, D] with all rows of some [N, D], side by side: [Q, sum of N], in blocks of the banks."""
    unit = torch.from_numpy(normalize(queries)).to(device)
    found = torch.empty(len(queries), sum(map(len, banks)), device=device)
    column = 0
    for bank in banks:
        for start in range(0, len(bank), _ROWS_AT_ONCE):
            block = torch.from_numpy(normalize(bank[start : start + _ROWS_AT_ONCE])).to(device)
            torch.mm(unit, block.T, out=found[:, column : column + len(block)])
            column += len(block)
    return found


def average_precision(relevant: NDArray[np.bool_]) -> float:
    """The mean of the precisions at the ranks of the relevant: of [N] ranked from the best, not all false."""
    ranks = 1 + np.flatnonzero(relevant)
    return float((np.arange(1, len(ranks) + 1) / ranks).mean())
