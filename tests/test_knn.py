"""kNN on points made by hand, and against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from pipeline.errors import UserError
from pipeline.evaluation import knn as module
from pipeline.evaluation.knn import answers_of, knn_answers, knn_votes, nearest, normalize

CPU = torch.device("cpu")


def test_the_nearest_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    bank = normalize(rng.standard_normal((3000, 8)).astype(np.float32))
    queries = normalize(rng.standard_normal((2100, 8)).astype(np.float32))  # more than one chunk
    similarities, rows = nearest(queries, bank, 7, CPU)
    distances, expected = NearestNeighbors(n_neighbors=7, metric="cosine").fit(bank).kneighbors(queries)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(similarities, 1 - distances, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3, 40])
@pytest.mark.parametrize(("queries_at_once", "block_bytes"), [(1024, 16 << 20), (7, 4 * 7 * 3), (1, 4)])
def test_blocks_of_any_size_find_the_same(
    k: int, queries_at_once: int, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    bank, queries = (rng.standard_normal((num, 3)).astype(np.float32) for num in (40, 30))
    bank[5], queries[3] = 0, 0  # a row of zeros has a cosine of 0 with all
    exact = np.array([[cosine(query, row) for row in bank] for query in queries])
    monkeypatch.setattr(module, "_QUERIES_AT_ONCE", queries_at_once)
    monkeypatch.setattr(module, "_BLOCK_BYTES", block_bytes)
    cosines, rows = nearest(queries, bank, k, CPU)
    np.testing.assert_allclose(cosines, -np.sort(-exact, axis=1)[:, :k], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(exact, rows, 1), cosines, atol=1e-6)
    assert all(len(set(of_query)) == k for of_query in rows)


def cosine(a: np.ndarray, b: np.ndarray) -> float:  # type: ignore[type-arg]
    lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else 0.0


@pytest.mark.parametrize("k", [0, 4])
def test_k_out_of_range_is_refused(k: int) -> None:
    bank = np.eye(3, dtype=np.float32)
    with pytest.raises(UserError, match=f"k is {k}, but a query can find only 3 images"):
        nearest(bank, bank, k, CPU)


def test_votes_weigh_what_the_paper_says() -> None:
    similarities = np.array([[0.9, 0.8, 0.7]], dtype=np.float32)
    labels = np.array([[2, 0, 0]])
    votes = knn_votes(similarities, labels, num_classes=3, temperature=0.1)[0]
    weights = [math.exp(s / 0.1) for s in (0.9, 0.8, 0.7)]
    expected = np.array([(weights[1] + weights[2]) / weights[0], -math.inf, 1])
    np.testing.assert_allclose(votes, expected, rtol=1e-5)
    # one near neighbour outvotes two far ones, until the temperature makes all alike
    assert votes.argmax() == 2
    assert knn_votes(similarities, labels, 3, temperature=10.0)[0].argmax() == 0


def test_a_tiny_temperature_does_not_overflow() -> None:
    similarities = np.array([[1.0, 0.5]], dtype=np.float32)
    votes = knn_votes(similarities, np.array([[1, 0]]), num_classes=2, temperature=1e-4)
    np.testing.assert_array_equal(votes, [[0, 1]])


def test_ranks_on_a_table_made_by_hand() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.4, 0.4, 0.4], [0.4, 0.4, 0.4]])
    labels = np.array([1, 1, 0, 0, 2])
    np.testing.assert_array_equal(answers_of(scores, labels).ranks, [0, 1, 2, 0, 2])
    # a class that has no column is behind all of them
    np.testing.assert_array_equal(answers_of(scores[:1], np.array([-1])).ranks, [3])


def test_no_class_without_a_vote_is_among_the_five_best() -> None:
    # nine classes, and the three neighbours are of two of them: the right one, 1, has no vote
    bank = np.eye(9, dtype=np.float32) + 1
    labels = np.array([0, 2, 2, 3, 4, 5, 6, 7, 8])
    query = bank[:3].mean(axis=0, keepdims=True)
    for label, rank in ((1, 9), (0, 1)):
        answers = knn_answers(
            query, np.array([label]), bank, labels, num_classes=9, k=3, temperature=0.07, device=CPU
        )
        assert answers.ranks[0] == rank
        assert answers.predicted[0] == 2  # two of the three
