"""Images ask the collection for their like: how many of the nearest are of their class."""

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.figures import TOP5_FROM, mean_recall
from pipeline.evaluation.knn import lengths, normalize, order_keys, rows_of
from pipeline.evaluation.labelled import Labelled, Scores
from pipeline.params.evaluate import Retrieval

# Q queries, N images

_BLOCK_BYTES = 64 << 20  # of similarities
_PRECISION_AT = 10


def askable(train_labels: NDArray[np.int64], test_labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of test images whose class has another image: without one there is nothing to find."""
    classes, counts = np.unique(np.concatenate([train_labels, test_labels]), return_counts=True)
    return np.flatnonzero(np.isin(test_labels, classes[counts > 1]))


def score_retrieval(train: Labelled, test: Labelled, params: Retrieval) -> Scores:
    """Test images ask the whole collection for their like, and never find themselves.

    The whole of it is ranked for each query, in blocks of `_BLOCK_BYTES`: beyond the arrays this holds
    MEMORY_OF_RETRIEVAL.

    Args:
        train: none of it asks.
        test: at least one of them has another image of its class.
        params: how many ask.

    Returns:
        `top1` and, of more than five classes, `top5`: whether the nearest, or one of the five nearest, is of
        the query's class; `balanced_accuracy`: the mean of `top1` over the queries' classes;
        `precision_at_10`: the share of the ten nearest that are; `map`: the mean over the queries of the
        average precision over the whole ranking (Manning et al. 2008, Introduction to Information Retrieval,
        sec. 8.4). Only images ask whose class has another.
    """
    labels = np.concatenate([train.labels, test.labels])
    can_ask = askable(train.labels, test.labels)
    rng = np.random.default_rng(params.seed)
    queries = np.sort(rng.choice(can_ask, min(params.num_queries, len(can_ask)), replace=False))
    parts = [(part.features, lengths(part.features)) for part in (train, test)]
    ranks, precisions, average_precisions = [], [], []
    at_once = max(1, _BLOCK_BYTES // (4 * len(labels)))
    for start in range(0, len(queries), at_once):
        rows = queries[start : start + at_once]
        unit = normalize(test.features[rows])
        similarity = np.concatenate([unit @ bank.T / length for bank, length in parts], axis=1)
        itself = len(train.labels) + rows
        similarity[np.arange(len(rows)), itself] = -np.inf  # last, and cut off below
        for similar, row in zip(similarity, itself, strict=True):
            keys = order_keys(similar)
            keys.sort()
            relevant = (labels == labels[row])[rows_of(keys[:-1])]
            ranks.append(int(relevant.argmax()))
            precisions.append(relevant[:_PRECISION_AT].mean())
            average_precisions.append(average_precision(relevant))
    found = np.array(ranks)
    scores: Scores = {"top1": float((found < 1).mean())}
    if len(np.unique(labels)) >= TOP5_FROM:
        scores["top5"] = float((found < 5).mean())
    return scores | {
        "balanced_accuracy": mean_recall(found, test.labels[queries]),
        "precision_at_10": float(np.mean(precisions)),
        "map": float(np.mean(average_precisions)),
    }


def average_precision(relevant: NDArray[np.bool_]) -> float:
    """The mean of the precisions at the ranks of the relevant: of [N] ranked from the best, not all false."""
    ranks = 1 + np.flatnonzero(relevant)
    return float((np.arange(1, len(ranks) + 1) / ranks).mean())
