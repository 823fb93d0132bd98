"""kNN on points made by hand, and against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from pipeline.errors import UserError
from pipeline.evaluation.knn import knn_scores, nearest, normalize, topk_accuracy


def test_the_nearest_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    bank = normalize(rng.standard_normal((3000, 8)).astype(np.float32))
    queries = normalize(rng.standard_normal((2100, 8)).astype(np.float32))  # more than one chunk
    similarities, rows = nearest(queries, bank, 7)
    distances, expected = NearestNeighbors(n_neighbors=7, metric="cosine").fit(bank).kneighbors(queries)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(similarities, 1 - distances, atol=1e-5)


def test_a_query_never_finds_itself() -> None:
    rng = np.random.default_rng(0)
    bank = normalize(rng.standard_normal((50, 4)).astype(np.float32))
    own_rows = np.array([3, 49, -1], dtype=np.int64)
    queries = np.concatenate([bank[[3, 49]], bank[[10]]])
    _, rows = nearest(queries, bank, 49, own_rows)
    assert 3 not in rows[0]
    assert 49 not in rows[1]
    assert rows[2, 0] == 10  # not declared as its own row, so it is found


@pytest.mark.parametrize("k", [0, 4])
def test_k_out_of_range_is_refused(k: int) -> None:
    bank = np.eye(3, dtype=np.float32)
    with pytest.raises(UserError, match=f"k is {k}, but a query can find only 3 images"):
        nearest(bank, bank, k)


def test_votes_weigh_what_the_paper_says() -> None:
    similarities = np.array([[0.9, 0.8, 0.7]], dtype=np.float32)
    labels = np.array([[2, 0, 0]])
    scores = knn_scores(similarities, labels, num_classes=3, temperature=0.1)[0]
    weights = [math.exp(s / 0.1) for s in (0.9, 0.8, 0.7)]
    expected = np.array([weights[1] + weights[2], 0, weights[0]]) / weights[0]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    # one near neighbour outvotes two far ones, until the temperature makes all alike
    assert scores.argmax() == 2
    assert knn_scores(similarities, labels, 3, temperature=10.0)[0].argmax() == 0


def test_a_tiny_temperature_does_not_overflow() -> None:
    similarities = np.array([[1.0, 0.5]], dtype=np.float32)
    scores = knn_scores(similarities, np.array([[1, 0]]), num_classes=2, temperature=1e-4)
    np.testing.assert_array_equal(scores, [[0, 1]])


def test_top_k_accuracy_on_a_table_made_by_hand() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    labels = np.array([1, 1, 0])
    assert [topk_accuracy(scores, labels, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert topk_accuracy(scores, labels, 5) == 1  # more than there are classes
