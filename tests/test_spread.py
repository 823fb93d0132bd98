"""Effective rank and uniformity against slow loops and closed forms."""

import numpy as np
import pytest

from pipeline.evaluation.label_free.spread import spread


def test_the_spread_is_that_of_slow_loops() -> None:
    features = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    total, pairs = 0.0, 0
    for first in range(30):
        for second in range(first):
            total += np.exp(-2 * sum((unit[first, d] - unit[second, d]) ** 2 for d in range(5)))
            pairs += 1
    eigenvalues = np.linalg.eigvalsh(unit.T @ unit)
    shares = np.sqrt(eigenvalues) / np.sqrt(eigenvalues).sum()
    scores = spread(features)
    assert scores["uniformity"] == pytest.approx(np.log(total / pairs), rel=1e-4)
    assert scores["effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)


def test_the_spread_of_one_point_and_of_the_axes_is_the_closed_form() -> None:
    collapsed = spread(np.ones((10, 8), dtype=np.float32))
    assert collapsed["effective_rank"] == pytest.approx(1, abs=1e-5)
    assert collapsed["uniformity"] == pytest.approx(0, abs=1e-6)
    axes = spread(np.eye(8, dtype=np.float32))
    assert axes["effective_rank"] == pytest.approx(8)
    assert axes["uniformity"] == pytest.approx(-4)  # every squared distance is 2


def test_features_that_are_nothing_at_all_have_one_point() -> None:
    """Every rectifier may be dead: 0 / 0 is no figure."""
    assert spread(np.zeros((10, 8), dtype=np.float32)) == {"effective_rank": 1.0, "uniformity": 0.0}
