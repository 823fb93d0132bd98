"""Thumbnails on a few sheets: ten thousand images in a few files' worth of bytes, each image once."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.arrays import Stacked

LARGEST, SMALLEST = 64, 32  # pixels of a thumbnail's side
_PIXELS_OF_MANY = 10_000 * SMALLEST**2  # of all thumbnails that no gallery shows
_SHEET = 2048  # pixels of a sheet's side: what a phone decodes at once
_TRIED = 256  # thumbnails that say which coding is smaller
_QUALITY = 70
_EFFORT = 4  # of libwebp, from 0 to 6


@dataclass(frozen=True)
class Sheet:
    """A picture of thumbnails in rows, WebP.

    Attributes:
        side: pixels of a thumbnail's side.
        columns: thumbnails in a row.
        rows: of them; the last may be shorter.
        webp: the file's bytes.
    """

    side: int
    columns: int
    rows: int
    webp: bytes


@dataclass(frozen=True)
class Cell:
    """Where a thumbnail lies: the number of its sheet, and its place in it, row after row."""

    sheet: int
    place: int


@dataclass(frozen=True)
class Sprites:
    """All thumbnails of a page: where each image lies, by its key."""

    sheets: Sequence[Sheet]
    cells: Mapping[int, Cell]


def side_of_many(image_size: int, num_images: int) -> int:
    """The side at which so many thumbnails are as many pixels as 10,000 of 32 px, from 32 to 64."""
    fitting = math.isqrt(_PIXELS_OF_MANY // max(1, num_images))
    return min(image_size, LARGEST, max(SMALLEST, fitting))


def make_sprites(pixels: Stacked, sides: Mapping[int, int]) -> Sprites:
    """Draws each image once, on sheets of equal thumbnails.

    Args:
        pixels: of every image by its key, uint8 [N, H, W, 3].
        sides: of the images to draw, the side of each one's thumbnail.

    Returns:
        Sheets whose bytes are the same for the same pixels, and where each key lies.
    """
    sheets: list[Sheet] = []
    cells: dict[int, Cell] = {}
    for side in sorted(set(sides.values()), reverse=True):
        keys = np.array(sorted(key for key in sides if sides[key] == side), dtype=np.int64)
        columns = _SHEET // side
        lossless = _is_smaller_lossless(_sheet(pixels, keys[:_TRIED], side))
        for start in range(0, len(keys), columns**2):
            on_sheet = keys[start : start + columns**2]
            cells |= {int(key): Cell(len(sheets), place) for place, key in enumerate(on_sheet)}
            picture = _sheet(pixels, on_sheet, side)
            sheets.append(
                Sheet(side, picture.width // side, picture.height // side, _webp(picture, lossless=lossless))
            )
    return Sprites(sheets, cells)


def _sheet(pixels: Stacked, keys: NDArray[np.int64], side: int) -> Image.Image:
    columns = min(len(keys), _SHEET // side)
    rows = -(-len(keys) // columns)
    sheet = np.zeros((rows * side, columns * side, 3), dtype=np.uint8)
    for row in range(rows):
        for column, image in enumerate(pixels[keys[row * columns : (row + 1) * columns]]):
            place = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
            sheet[place] = _thumbnail(image, side)
    return Image.fromarray(sheet)


def _thumbnail(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    if image.shape[:2] == (side, side):
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))


def _is_smaller_lossless(picture: Image.Image) -> bool:
    """Of drawings, where it has no blur besides; of photographs it is several times as large."""
    return len(_webp(picture, lossless=True)) < len(_webp(picture, lossless=False))


def _webp(picture: Image.Image, *, lossless: bool) -> bytes:
    file = io.BytesIO()
    picture.save(file, "WEBP", lossless=lossless, quality=_QUALITY, method=_EFFORT)
    return file.getvalue()
