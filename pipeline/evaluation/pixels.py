"""The baseline that costs nothing: an image's own pixels as its features."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_MANY_IMAGES = 10_000


def pixel_side(num_images: int) -> int:
    """Pixels at which the baseline sees so many labelled images.

    The probe's work grows with images times pixels: 50,000 of 32 px in colour took it a quarter of an hour.
    """
    return 32 if num_images <= _MANY_IMAGES else 16


def small_pixels(
    images: NDArray[np.uint8], rows: NDArray[np.int64], *, grey: bool, largest: int
) -> NDArray[np.float32]:
    """The representation that costs nothing: some of uint8 [N, H, W, 3] to float32 [len(rows), D] in [0, 1].

    Images above `largest` pixels are reduced to it by the mean of the area. Of three equal channels one is
    kept: a third of the probe's work, and the same cosines.
    """
    side = min(images.shape[1], largest)
    small = np.empty((len(rows), side, side, 1 if grey else 3), dtype=np.float32)
    for pixels, row in zip(small, rows, strict=True):
        image = Image.fromarray(images[row]).resize((side, side), Image.Resampling.BOX)
        pixels[:] = np.asarray(image)[..., : pixels.shape[2]]
    small /= 255
    return small.reshape(len(rows), -1)


def is_grey(images: NDArray[np.uint8]) -> bool:
    """Whether the three channels of every image are equal; reads no further than the first that is not."""
    return all(bool((image == image[..., :1]).all()) for image in images)
