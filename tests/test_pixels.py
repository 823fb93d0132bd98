"""The statistics that pixels are normalised with, against numpy's."""

import numpy as np
import pytest

from pipeline.training.pixels import pixel_statistics


def test_pixel_statistics_are_numpys() -> None:
    images = np.random.default_rng(0).integers(0, 200, (100, 16, 16, 3), dtype=np.uint8)
    statistics = pixel_statistics(images, seed=0)
    scaled = images.astype(np.float64) / 255
    np.testing.assert_allclose(statistics.mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(statistics.std, scaled.std(axis=(0, 1, 2)), rtol=1e-9)


def test_a_collection_of_one_colour_is_not_divided_by_zero() -> None:
    statistics = pixel_statistics(np.full((3, 8, 8, 3), 100, dtype=np.uint8), seed=0)
    assert min(statistics.std) == pytest.approx(1 / 255)
