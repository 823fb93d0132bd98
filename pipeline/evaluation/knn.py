"""Weighted k-nearest-neighbour classification: how good a representation is, with nothing trained on it."""

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError

# Q queries, N bank, D feature, K classes

_QUERIES_AT_ONCE = 1024
_BLOCK_BYTES = 16 << 20  # of similarities, and of the bank's rows that are compared at once
_ROW_BITS = np.uint64(32)  # of an order key


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
    queries: NDArray[np.float32], bank: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k rows of the bank with the largest cosine, by exact search; of equals the smaller row.

    Every query is compared with the bank in blocks of `_BLOCK_BYTES`: beyond the arrays, a search holds
    MEMORY_OF_A_SEARCH, whatever their number.

    Args:
        queries: [Q, D], of any length.
        bank: [N, D], likewise; N below 2^32.
        k: at least 1.

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
    bank_lengths = lengths(bank)
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        chunk = slice(start, start + _QUERIES_AT_ONCE)
        unit = normalize(queries[chunk])
        best = np.empty((len(unit), 0), dtype=np.uint64)
        for first in range(0, len(bank), block):
            compared = slice(first, first + block)
            keys = order_keys(unit @ bank[compared].T / bank_lengths[compared], first)
            best = np.concatenate([best, keys], axis=1)
            if best.shape[1] > k:
                best = np.partition(best, k - 1, axis=1)[:, :k]
        best.sort(axis=1)
        cosines[chunk], rows[chunk] = similarities_of(best), rows_of(best)
    return cosines, rows


def order_keys(similarity: NDArray[np.float32], first_row: int = 0) -> NDArray[np.uint64]:
    """Similarity and row in one number: sorted, the most similar come first, of equals the smaller row.

    The bits of floats sort like integers, but for those below zero, which sort the other way round.

    Args:
        similarity: [..., N].
        first_row: the row of the first column; all of them below 2^32.
    """
    bits = (similarity + np.float32(0)).view(np.uint32)  # -0 becomes 0
    is_negative = bits >> np.uint32(31) == 1
    np.bitwise_xor(bits, np.uint32(0x7FFFFFFF), out=bits, where=~is_negative)
    keys = bits.astype(np.uint64)
    keys <<= _ROW_BITS
    keys |= np.arange(first_row, first_row + similarity.shape[-1], dtype=np.uint64)
    return keys


def similarities_of(keys: NDArray[np.uint64]) -> NDArray[np.float32]:
    """The similarities in order keys, float32 of their shape."""
    bits = (keys >> _ROW_BITS).astype(np.uint32)
    is_negative = bits >> np.uint32(31) == 1
    np.bitwise_xor(bits, np.uint32(0x7FFFFFFF), out=bits, where=~is_negative)
    return bits.view(np.float32)


def rows_of(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The rows in order keys, int64 of their shape."""
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


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


def knn_ranks(
    queries: NDArray[np.float32],
    labels: NDArray[np.int64],
    bank: NDArray[np.float32],
    bank_labels: NDArray[np.int64],
    *,
    num_classes: int,
    k: int,
    temperature: float,
) -> NDArray[np.int64]:
    """Where the class of each query stands among those that its k nearest vote for, [Q] (`class_ranks`).

    Args:
        queries: [Q, D].
        labels: their classes, [Q].
        bank: [N, D].
        bank_labels: [N].
        num_classes: K; all labels are from 0 to K - 1.
        k: neighbours that vote.
        temperature: of their votes.

    Raises:
        UserError: k is larger than the bank.
    """
    similarities, rows = nearest(queries, bank, k)
    ranks = np.empty(len(labels), dtype=np.int64)
    at_once = max(1, _BLOCK_BYTES // (8 * num_classes))
    for start in range(0, len(labels), at_once):
        chunk = slice(start, start + at_once)
        votes = knn_votes(similarities[chunk], bank_labels[rows[chunk]], num_classes, temperature)
        ranks[chunk] = class_ranks(votes, labels[chunk])
    return ranks


def class_ranks(scores: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes stand before each row's own: 0 is a right answer, below 5 one among the five best.

    Args:
        scores: [Q, K]; -inf is no answer at all.
        labels: [Q]; -1 for a class that has no column.

    Returns:
        [Q]; of equal scores the smaller class stands first; K for a class without a score.
    """
    own = scores[np.arange(len(labels)), labels][:, None]
    is_before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < labels[:, None]))
    is_scored = (labels >= 0) & (own[:, 0] > -np.inf)
    ranks: NDArray[np.int64] = np.where(is_scored, is_before.sum(axis=1), scores.shape[1])
    return ranks
