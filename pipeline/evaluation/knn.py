"""Weighted k-nearest-neighbour classification: how good a representation is, with nothing trained on it."""

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError

# Q queries, N bank, D feature, K classes

_CHUNK = 1024  # queries at a time: 1,024 x 100,000 similarities are 400 MB


def normalize(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1, float32 [N, D]; a row of zeros stays zero."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit: NDArray[np.float32] = features / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit.astype(np.float32)


def nearest(
    queries: NDArray[np.float32],
    bank: NDArray[np.float32],
    k: int,
    own_rows: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k rows of the bank with the largest inner product, by exact search.

    Args:
        queries: [Q, D], L2-normalised for cosine similarity.
        bank: [N, D], likewise.
        k: at least 1.
        own_rows: the bank's row of each query that is itself in the bank (-1: it is not), so that a query
            never finds itself; [Q].

    Returns:
        Similarities float32 [Q, k] from the largest down, and rows int64 [Q, k].

    Raises:
        UserError: k is larger than what each query can find.
    """
    available = len(bank) - (own_rows is not None)
    if not 1 <= k <= available:
        raise UserError(
            f"k is {k}, but a query can find only {available} images: choose k from 1 to {available}"
        )
    similarities = np.empty((len(queries), k), dtype=np.float32)
    rows = np.empty((len(queries), k), dtype=np.int64)
    for start in range(0, len(queries), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        similarity = queries[chunk] @ bank.T
        if own_rows is not None:
            itself = np.flatnonzero(own_rows[chunk] >= 0)
            similarity[itself, own_rows[chunk][itself]] = -np.inf
        order = _largest(similarity, k)
        rows[chunk] = order
        similarities[chunk] = np.take_along_axis(similarity, order, axis=1)
    return similarities, rows


def knn_scores(
    similarities: NDArray[np.float32],
    neighbor_labels: NDArray[np.int64],
    num_classes: int,
    temperature: float,
) -> NDArray[np.float64]:
    """The neighbours' votes for each class, each of weight exp(similarity / temperature).

    Args:
        similarities: cosines of the neighbours, [Q, k].
        neighbor_labels: their classes, [Q, k].
        num_classes: K.
        temperature: > 0; the smaller, the more the nearest decide.

    Returns:
        float64 [Q, K], scaled so that the nearest neighbour's vote weighs 1.

    Source: Wu et al. 2018, arXiv:1805.01978, sec. 3.4.
    """
    # relative to the nearest: exp(1 / 0.001) is no number
    relative = similarities.astype(np.float64) - similarities[:, :1]
    weights = np.exp(relative / temperature)
    scores = np.zeros((len(similarities), num_classes))
    np.add.at(scores, (np.arange(len(scores))[:, None], neighbor_labels), weights)
    return scores


def topk_accuracy(scores: NDArray[np.float64], labels: NDArray[np.int64], k: int) -> float:
    """The share of rows whose label is among the k highest scores (ties go to the smaller class).

    Args:
        scores: [Q, K].
        labels: [Q].
        k: with K or more, every row counts.
    """
    if k >= scores.shape[1]:
        return 1.0
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float((best == labels[:, None]).any(axis=1).mean())


def _largest(similarity: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Columns of the k largest of each row, the largest first."""
    if k < similarity.shape[1]:
        kept = np.sort(np.argpartition(-similarity, k - 1, axis=1)[:, :k], axis=1)
    else:
        kept = np.broadcast_to(np.arange(k), similarity.shape)
    order = np.argsort(-np.take_along_axis(similarity, kept, axis=1), axis=1, kind="stable")
    return np.take_along_axis(kept, order, axis=1)
