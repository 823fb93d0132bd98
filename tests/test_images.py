"""The one way a file becomes pixels."""

import io
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageOps

from pipeline.errors import UserError
from pipeline.images import MAX_MEMORY_BYTES, MAX_PIXELS, UnreadableImageError, decode, fit, read_image
from tests.processes import run


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


@pytest.mark.parametrize("kind", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int, kind: str) -> None:
    """Pillow turns a TIFF itself as it loads it: turned again, all but the first came out wrong."""
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
    lossless = {"lossless": True} if kind == "webp" else {}
    pixels = read_image(save(stored, tmp_path / f"a.{kind}", exif=exif, **lossless), 32)
    np.testing.assert_array_equal(pixels, np.asarray(upright))


@pytest.mark.parametrize("kind", ["jpeg", "tiff"])
def test_width_and_height_are_those_of_the_image_as_it_is_stored(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    photo(40, 30).save(buffer, format=kind, exif=exif)
    stored = decode(buffer.getvalue(), 32)
    assert (stored.width, stored.height) == photo(40, 30).size


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
    assert {"empty": "empty file", "text": "not an image"}.get(kind, "damaged image") in str(error.value)
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


def test_a_file_is_what_its_bytes_say_not_its_name(tmp_path: Path) -> None:
    path = save(photo(32, 32), tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_image(path, 32), np.asarray(photo(32, 32)))


def test_a_format_that_runs_another_program_is_not_read() -> None:
    postscript = io.BytesIO()
    photo().save(postscript, format="EPS")
    with pytest.raises(UnreadableImageError, match="not an image of a format that is read"):
        decode(postscript.getvalue(), 32)


def test_a_large_jpeg_is_decoded_small_and_looks_as_if_it_were_not() -> None:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
        (1600, 1200), Image.Resampling.BICUBIC
    )
    buffer = io.BytesIO()
    smooth.save(buffer, format="JPEG", quality=95)
    with Image.open(io.BytesIO(buffer.getvalue())) as image:
        whole = fit(np.asarray(image.convert("RGB")), 64)
    small = decode(buffer.getvalue(), 64)
    assert (small.width, small.height) == (1600, 1200)
    difference = np.abs(small.pixels.astype(int) - whole)
    assert difference.max() <= 8
    assert difference.mean() < 1


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("shape", [(60, 40), (41, 60)])
def test_orientation_and_cutting_out_the_centre_go_in_either_order(
    orientation: int, shape: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    photo(*shape).save(buffer, format="PNG", exif=exif)
    with Image.open(io.BytesIO(buffer.getvalue())) as image:
        upright_first = fit(np.asarray(ImageOps.exif_transpose(image)), 20)
    difference = np.abs(decode(buffer.getvalue(), 20).pixels.astype(int) - upright_first)
    assert difference.max() <= 1  # the resampling rounds


def test_damaged_exif_data_do_not_cost_the_image() -> None:
    buffer = io.BytesIO()
    photo(32, 32).save(buffer, format="PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode(buffer.getvalue(), 32).pixels, np.asarray(photo(32, 32)))


def test_the_first_frame_of_an_animation_is_the_image() -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "green", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, format="WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert decode(buffer.getvalue(), 16).pixels[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_what_telephones_write_is_read_upright(kind: str, orientation: int, tmp_path: Path) -> None:
    if kind == "HEIF":
        pillow_heif.register_heif_opener()
    upright = photo(96, 64).resize((192, 128), Image.Resampling.BICUBIC)  # smooth: a codec keeps it
    stored = upright.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "IMG_0001.HEIC"
    stored.save(path, format=kind, quality=95, exif=exif.tobytes())
    expected = read_image(save(upright, tmp_path / "a.png"), 64).astype(float)
    assert np.abs(read_image(path, 64) - expected).mean() < 4
    assert np.abs(np.rot90(expected) - expected).mean() > 20  # or it could lie on its side


def test_a_damaged_heif_file_is_one_line(tmp_path: Path) -> None:
    pillow_heif.register_heif_opener()
    whole = save(photo(64, 64), tmp_path / "a.heic", format="HEIF").read_bytes()
    for damaged_bytes in (whole[:200], whole[:-100], whole[:12]):
        with pytest.raises(UnreadableImageError) as error:
            decode(damaged_bytes, 32)
        assert "\n" not in str(error.value)


_PEAK_OF_DECODING = """
import sys
from pathlib import Path
from pipeline.images import decode

def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

content = Path(sys.argv[1]).read_bytes()
before = kilobytes("VmRSS")
decode(content, 96)
print(kilobytes("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("a.webp", "RGB", {"lossless": True, "method": 0}),
        ("a.png", "LA", {"compress_level": 1}),
        ("a.jpg", "RGB", {"progressive": True, "subsampling": 0}),
        ("a.tif", "F", {}),
    ],
)
def test_the_largest_image_takes_no_more_than_the_documented_memory(
    tmp_path: Path, name: str, mode: str, options: dict[str, object]
) -> None:
    image = photo(16, 10).convert(mode).resize((12_500, 8_000), Image.Resampling.NEAREST)
    assert image.width * image.height == MAX_PIXELS
    save(image, tmp_path / name, **options)
    peak_kilobytes = int(run("python", "-c", _PEAK_OF_DECODING, str(tmp_path / name), cwd=tmp_path).stdout)
    assert peak_kilobytes < MAX_MEMORY_BYTES / 1024
