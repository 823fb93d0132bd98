"""The one way tiles become a picture: images in rows, each with its words, written to a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.atomic import atomic_file
from pipeline.errors import UserError

_TILE = 96  # pixels
_GAP = 8
_CAPTION = 18
_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (205, 205, 205)


@dataclass(frozen=True)
class Tile:
    """An image, uint8 [H, W, 3], and the words under it."""

    pixels: NDArray[np.uint8]
    caption: str


def draw_rows(rows: Sequence[tuple[Tile, Sequence[Tile]]]) -> Image.Image:
    """The first tile of each row at the left, behind a rule the others, from left to right."""
    columns = 1 + max(len(others) for _, others in rows)
    row_height = _TILE + _CAPTION + _GAP
    picture = Image.new(
        "RGB", (3 * _GAP + columns * (_TILE + _GAP), 2 * _GAP + len(rows) * row_height), _PAPER
    )
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=12)
    for line, (first, others) in enumerate(rows):
        top = _GAP + line * row_height
        _draw_tile(picture, pen, font, first, _GAP, top)
        rule = _TILE + 2 * _GAP + _GAP // 2
        pen.line([(rule, top), (rule, top + _TILE + _CAPTION)], fill=_FAINT)
        for column, other in enumerate(others, start=1):
            _draw_tile(picture, pen, font, other, 2 * _GAP + column * (_TILE + _GAP), top)
    return picture


def write_picture(picture: Image.Image, path: Path) -> None:
    """Writes a picture atomically, in the format that the name's ending says.

    Raises:
        UserError: Pillow writes no format of that ending, or the folder does not exist.
    """
    picture_format = Image.registered_extensions().get(path.suffix.lower())
    if picture_format not in Image.SAVE:
        raise UserError(f"{path}: no picture format ends in {path.suffix or 'nothing'!r}: try .png")
    if not path.parent.is_dir():
        raise UserError(f"{path}: the folder {path.parent} does not exist: make it first")
    with atomic_file(path) as partial:
        picture.save(partial, format=picture_format)


def _draw_tile(
    picture: Image.Image,
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    tile: Tile,
    left: int,
    top: int,
) -> None:
    image = Image.fromarray(tile.pixels)
    # small images show their own pixels
    filter_ = Image.Resampling.NEAREST if image.width < _TILE else Image.Resampling.LANCZOS
    picture.paste(image.resize((_TILE, _TILE), filter_), (left, top))
    middle = (left + _TILE // 2, top + _TILE + _CAPTION // 2)
    pen.text(middle, tile.caption, fill=_INK, font=font, anchor="mm")
