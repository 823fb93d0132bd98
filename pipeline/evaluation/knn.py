"""Weighted k-nearest-neighbour classification: how good a representation is, with nothing trained on it."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.evaluation.labelled import NOTHING, Answers

# Q queries, N bank, D feature, K classes

_QUERIES_AT_ONCE = 1024
_BLOCK_BYTES = 64 << 20  # of similarities, and of the bank's rows that are compared at once


def normalize(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1, float32 [N, D]; a row of zeros stays zero."""
    unit: NDArray[np.float32] = features / lengths(features)[:, None]
    return unit


def lengths(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The length of each row, float32 [N], never zero, in no more memory than that."""
    squares = np.einsum("nd,nd->n", features, features, dtype=np.float64)
    found: NDArray[np.float32] = np.sqrt(squares).astype(np.float32)
    return np.maximum(found, np.finfo(np.float32).tiny)


def nearest(
    queries: NDArray[np.float32], bank: NDArray[np.float32], k: int, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k rows of the bank with the largest cosine, by exact search.

    Every query is compared with the bank in blocks of `_BLOCK_BYTES`, so the memory of a search does not grow
    with the bank: 10,000 queries among 1,000,000 x 128 (512 MB) held 134 MiB more than these
    (`python -m benchmarks.neighbors`).

    Args:
        queries: [Q, D], of any length.
        bank: [N, D], likewise.
        k: at least 1.
        device: that compares.

    Returns:
        Cosines float32 [Q, k] from the largest down, and rows int64 [Q, k].

    Raises:
        UserError: k is larger than the bank.
    """
    if not 1 <= k <= len(bank):
        raise UserError(
            f"k is {k}, but a query can find only {len(bank)} images: choose k from 1 to {len(bank)}"
        )
    cosines = np.empty((len(queries), k), dtype=np.float32)
    rows = np.empty((len(queries), k), dtype=np.int64)
    block = max(1, _BLOCK_BYTES // (4 * max(_QUERIES_AT_ONCE, bank.shape[1])))
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        chunk = slice(start, start + _QUERIES_AT_ONCE)
        unit = torch.from_numpy(normalize(queries[chunk])).to(device)
        best = torch.empty(len(unit), 0, device=device)
        rows_of_best = torch.empty(len(unit), 0, dtype=torch.int64, device=device)
        for first in range(0, len(bank), block):
            compared = normalize(bank[first : first + block])
            similarity = unit @ torch.from_numpy(compared).to(device).T
            found, columns = similarity.topk(min(k, len(compared)))
            best, kept = torch.cat([best, found], dim=1).topk(min(k, best.shape[1] + found.shape[1]))
            rows_of_best = torch.cat([rows_of_best, columns + first], dim=1).gather(1, kept)
        cosines[chunk], rows[chunk] = best.cpu().numpy(), rows_of_best.cpu().numpy()
    return cosines, rows


def knn_votes(
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
        float64 [Q, K], scaled so that the nearest neighbour's vote weighs 1; -inf for a class that no
        neighbour is of.

    Source: Wu et al. 2018, arXiv:1805.01978, sec. 3.4.
    """
    # relative to the nearest: exp(1 / 0.001) is no number
    relative = similarities.astype(np.float64) - similarities[:, :1]
    votes = np.full((len(similarities), num_classes), -np.inf)
    voters = np.arange(len(votes))[:, None], neighbor_labels
    votes[voters] = 0
    np.add.at(votes, voters, np.exp(relative / temperature))
    return votes


def knn_answers(
    queries: NDArray[np.float32],
    labels: NDArray[np.int64],
    bank: NDArray[np.float32],
    bank_labels: NDArray[np.int64],
    *,
    num_classes: int,
    k: int,
    temperature: float,
    device: torch.device,
) -> Answers:
    """The classes that the k nearest of each query vote for.

    Args:
        queries: [Q, D].
        labels: their classes, [Q].
        bank: [N, D].
        bank_labels: [N].
        num_classes: K; all labels are from 0 to K - 1.
        k: neighbours that vote.
        temperature: of their votes.
        device: that compares them.

    Raises:
        UserError: k is larger than the bank.
    """
    similarities, rows = nearest(queries, bank, k, device)
    return voted(similarities, bank_labels[rows], labels, num_classes, temperature)


def voted(
    similarities: NDArray[np.float32],
    neighbor_labels: NDArray[np.int64],
    labels: NDArray[np.int64],
    num_classes: int,
    temperature: float,
) -> Answers:
    """What neighbours say by `knn_votes`, so many queries at once as have `_BLOCK_BYTES` of votes.

    Args:
        similarities: cosines of the neighbours, [Q, k].
        neighbor_labels: their classes, [Q, k].
        labels: the right ones, [Q].
        num_classes: K.
        temperature: of the votes.
    """
    parts = []
    at_once = max(1, _BLOCK_BYTES // (8 * num_classes))
    for start in range(0, len(labels), at_once):
        chunk = slice(start, start + at_once)
        votes = knn_votes(similarities[chunk], neighbor_labels[chunk], num_classes, temperature)
        parts.append(answers_of(votes, labels[chunk]))
    return joined(parts)


def answers_of(scores: NDArray[np.floating], labels: NDArray[np.int64]) -> Answers:
    """What scores of classes say, and how far the right one is from the first.

    Args:
        scores: [Q, K]; -inf is no answer at all. Of equal ones the smaller class stands first.
        labels: the right ones, [Q]; -1 for a class that has no column.
    """
    own = scores[np.arange(len(labels)), labels][:, None]
    is_before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < labels[:, None]))
    is_scored = (labels >= 0) & (own[:, 0] > -np.inf)
    ranks: NDArray[np.int64] = np.where(is_scored, is_before.sum(axis=1), scores.shape[1])
    predicted = np.where(scores.max(axis=1) > -np.inf, scores.argmax(axis=1), NOTHING)
    return Answers(predicted, ranks)


def joined(parts: Sequence[Answers]) -> Answers:
    """The answers of several parts of the images, one behind the other."""
    return Answers(
        np.concatenate([part.predicted for part in parts]), np.concatenate([part.ranks for part in parts])
    )
