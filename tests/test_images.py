"""The one way a file becomes pixels."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from pipeline.images import MAX_PIXELS, read_image


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def photo(width: int = 40, height: int = 40) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def test_an_image_of_the_right_size_keeps_its_pixels(tmp_path: Path) -> None:
    image = photo(32, 32)
    np.testing.assert_array_equal(read_image(save(image, tmp_path / "a.png"), 32), np.asarray(image))


def test_the_short_side_is_resized_and_the_centre_cut_out(tmp_path: Path) -> None:
    image = photo(120, 60)
    pixels = read_image(save(image, tmp_path / "a.png"), 30)
    expected = np.asarray(image.crop((30, 0, 90, 60)).resize((30, 30), Image.Resampling.BICUBIC))
    assert np.abs(pixels.astype(int) - expected).max() <= 1  # Pillow rounds the box's edge in float32


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image = photo(32, 32)
    image = image.convert("I").convert(mode) if mode == "I;16" else image.convert(mode)
    pixels = read_image(save(image, tmp_path / "a.tiff"), 32)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (32, 32), (200, 0, 0, 0))
    image.paste((200, 0, 0, 255), (0, 0, 16, 32))
    pixels = read_image(save(image, tmp_path / "a.png"), 32)
    assert pixels[0, 0].tolist() == [200, 0, 0]
    assert pixels[0, 31].tolist() == [255, 255, 255]


def test_a_transparent_palette_colour_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (32, 32), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert read_image(save(image, tmp_path / "a.png", transparency=1), 32)[0, 0].tolist() == [255] * 3


def test_sixteen_bit_grey_is_scaled_not_cut_off(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    pixels = read_image(save(Image.fromarray(values), tmp_path / "a.png"), 32)
    np.testing.assert_array_equal(pixels[..., 0], values // 257)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int) -> None:
    upright = photo(32, 32)
    # how the camera stored it, by the EXIF standard's table: the inverse of what a viewer does
    inverse = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if inverse is None else upright.transpose(inverse)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = read_image(save(stored, tmp_path / "a.png", exif=exif), 32)
    np.testing.assert_array_equal(pixels, np.asarray(upright))


def damaged(kind: str) -> bytes:
    buffer = io.BytesIO()
    photo().save(buffer, format="PNG" if kind.endswith("png") else "JPEG")
    whole = buffer.getvalue()
    return {"empty": b"", "text": b"hello", "cut png": whole[:300], "cut jpeg": whole[: len(whole) // 2]}[
        kind
    ]


@pytest.mark.parametrize("kind", ["empty", "text", "cut png", "cut jpeg"])
def test_a_damaged_file_is_one_line_with_its_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(damaged(kind))
    with pytest.raises(UserError) as error:
        read_image(path, 32)
    assert str(error.value).startswith(f"{path}: ")
    assert ("not an image" if kind in ("empty", "text") else "damaged image") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_image(tmp_path / "a.png", 32)
    with pytest.raises(UserError, match="a folder, not an image"):
        read_image(tmp_path, 32)


@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 60_000])
def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    assert side * side > MAX_PIXELS
    header = io.BytesIO()
    Image.new("1", (8, 8)).save(header, format="PNG")
    content = bytearray(header.getvalue())
    content[16:24] = side.to_bytes(4) + side.to_bytes(4)  # a small file that says it is huge
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match="at most 100,000,000 are read"):
        read_image(path, 32)
