"""Measures without labels, against slow loops and closed forms."""

import numpy as np
import pytest

from pipeline.evaluation.label_free.clusters import cluster_figures
from pipeline.evaluation.label_free.hubness import hubness
from pipeline.evaluation.label_free.spread import is_collapsed, spread
from pipeline.evaluation.label_free.views import view_figures
from pipeline.evaluation.labelled import Labelled


def test_hubness_is_that_of_slow_loops() -> None:
    rng = np.random.default_rng(0)
    neighbors = np.array([rng.choice(np.delete(np.arange(40), row), 5, replace=False) for row in range(40)])
    neighbors[3, 2:] = -1  # an index found no more
    times = [sum(image in row for row in neighbors.tolist()) for image in range(40)]
    mean = sum(times) / 40
    deviation = (sum((count - mean) ** 2 for count in times) / 40) ** 0.5
    found = hubness(neighbors)
    assert found["most_returned"] == max(times)
    assert found["largest_share"] == max(times) / 40
    assert found["never_returned"] == times.count(0) / 40
    skewness = sum((count - mean) ** 3 for count in times) / 40 / deviation**3
    assert found["hubness_skewness"] == pytest.approx(skewness)


def test_in_a_ring_nobody_is_a_hub() -> None:
    ring = np.stack([np.roll(np.arange(12), step) for step in (1, -1)], axis=1)
    assert hubness(ring) == {
        "largest_share": 2 / 12,
        "most_returned": 2,
        "never_returned": 0.0,
        "hubness_skewness": 0.0,
    }


def test_alignment_and_consistency_are_those_of_slow_loops() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((30, 6)).astype(np.float32)
    views = features + 1.2 * rng.standard_normal((30, 6)).astype(np.float32)
    unit, of_views = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (features, views))
    distances = [sum((a - b) ** 2 for a, b in zip(unit[i], of_views[i], strict=True)) for i in range(30)]
    nearest = [max(range(30), key=lambda j, i=i: unit[j] @ of_views[i]) for i in range(30)]
    found = view_figures(features, views)
    assert found["alignment"] == pytest.approx(np.mean(distances), rel=1e-5)
    assert found["consistency"] == pytest.approx(np.mean([i == j for i, j in enumerate(nearest)]))
    assert 0 < found["consistency_low"] < found["consistency"] < found["consistency_high"] < 1


def test_a_perfect_encoder_knows_its_views_and_a_constant_one_by_chance_alone() -> None:
    features = np.eye(20, dtype=np.float32)
    perfect = view_figures(features, features)
    assert perfect["alignment"] == 0
    assert perfect["consistency"] == 1
    constant = view_figures(np.ones((20, 4), np.float32), np.ones((20, 4), np.float32))
    assert constant["consistency"] == pytest.approx(1 / 20)
    triples = np.random.default_rng(0).standard_normal((10, 37)).astype(np.float32).repeat(3, axis=0)
    assert view_figures(triples, triples)["consistency"] == pytest.approx(1 / 3)


def test_a_constant_encoder_is_called_collapsed_and_no_other() -> None:
    rng = np.random.default_rng(0)
    constant = np.ones((200, 16), np.float32)
    assert is_collapsed(spread(constant)["uniformity"], 200)
    assert is_collapsed(
        spread(constant + 1e-4 * rng.standard_normal((200, 16)).astype(np.float32))["uniformity"], 200
    )
    assert is_collapsed(spread(np.zeros((200, 16), np.float32))["uniformity"], 200)
    noise = rng.standard_normal((200, 16)).astype(np.float32)
    assert not is_collapsed(spread(noise)["uniformity"], 200)
    assert not is_collapsed(spread(noise[:1])["uniformity"], 1)  # a point, as it must be


def test_clusters_of_clouds_are_the_classes_and_of_noise_nothing() -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(5), 60))
    clouds = (np.eye(5, 16)[labels] + 0.05 * rng.standard_normal((300, 16))).astype(np.float32)
    assert cluster_figures(Labelled(clouds, labels)) == {
        "nmi": pytest.approx(1),
        "ari": pytest.approx(1),
        "num_clusters": 5,
    }
    noise = cluster_figures(Labelled(rng.standard_normal((300, 16)).astype(np.float32), labels))
    assert abs(noise["ari"]) < 0.05
    assert noise["nmi"] < 0.1
