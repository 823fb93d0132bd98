"""The baseline on raw pixels, as stage evaluate makes it."""

import numpy as np

from pipeline.evaluation.pixels import is_grey, pixel_side, small_pixels


def test_small_images_keep_their_pixels_and_large_ones_become_the_mean_of_the_area() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    rows = np.array([2, 0])
    np.testing.assert_allclose(
        small_pixels(small, rows, grey=False, largest=32), small[rows].reshape(2, -1) / 255, rtol=1e-6
    )
    large = rng.integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    # Pillow rounds after each of its two passes
    means = large.reshape(2, 32, 3, 32, 3, 3).mean(axis=(2, 4)).reshape(2, -1) / 255
    reduced = small_pixels(large, np.arange(2), grey=False, largest=32)
    np.testing.assert_allclose(reduced, means, atol=1.01 / 255)
    assert small_pixels(large, np.arange(2), grey=False, largest=16).shape == (2, 16 * 16 * 3)


def test_many_labelled_images_stand_beside_smaller_pixels() -> None:
    assert (pixel_side(5000), pixel_side(60_000)) == (32, 16)


def test_of_grey_images_one_channel_is_kept() -> None:
    grey = np.repeat(np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8), 3, axis=3)
    assert is_grey(grey)
    assert small_pixels(grey, np.arange(3), grey=True, largest=32).shape == (3, 64)
    grey[2, 7, 7, 1] ^= 1
    assert not is_grey(grey)
