"""Colours of an embedded ICC profile become those of sRGB, by the closed forms of its specification."""

import io
import struct

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from pipeline.images import decode

# Columns of red, green and blue, adapted to D50 (ICC.1:2022, annex E; the primaries of Display P3 and sRGB).
DISPLAY_P3 = np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])
SRGB = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
D50 = np.array([0.9642, 1.0, 0.8249])
GAMMA = 563 / 256  # as a profile can write 2.2


def profile(space: bytes, pcs: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr") -> bytes:
    """An ICC profile of version 2.4 (ICC.1:2001-04, section 6)."""
    tags = {b"desc": text(b"desc"), b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": xyz(D50)} | tags
    place = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        padded = content + bytes(-len(content) % 4)
        table += name + struct.pack(">II", place + len(data), len(content))
        data += padded
    header = struct.pack(">I4sI4s4s4s", place + len(data), bytes(4), 0x02400000, kind, space, pcs)
    header += struct.pack(">6H4s", 2020, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    return header + s15(D50).ljust(60, b"\0") + table + data


def s15(values: NDArray[np.float64]) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def xyz(values: NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + s15(values)


def text(words: bytes) -> bytes:
    return b"desc" + bytes(4) + struct.pack(">I", len(words) + 1) + words + bytes(79)


def curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def rgb_profile(primaries: NDArray[np.float64]) -> bytes:
    colors = zip((b"r", b"g", b"b"), primaries.T, strict=True)
    tags = {name + b"XYZ": xyz(column) for name, column in colors}
    return profile(b"RGB ", b"XYZ ", tags | {name + b"TRC": curve(GAMMA) for name in (b"r", b"g", b"b")})


def encoded(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear sRGB as levels (IEC 61966-2-1)."""
    clipped = np.clip(linear, 0, 1)
    return 255 * np.where(clipped <= 0.0031308, 12.92 * clipped, 1.055 * clipped ** (1 / 2.4) - 0.055)


def file_of(pixels: NDArray[np.uint8], icc: bytes | None, mode: str = "RGB", kind: str = "PNG") -> bytes:
    height, width = pixels.shape[:2]
    file = io.BytesIO()
    Image.frombytes(mode, (width, height), pixels.tobytes()).save(file, kind, icc_profile=icc, quality=100)
    return file.getvalue()


COLORS = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)


def test_a_photograph_in_display_p3_has_the_colours_that_it_was_taken_in() -> None:
    found = decode(file_of(COLORS, rgb_profile(DISPLAY_P3)), 24).pixels
    linear = (COLORS / 255) ** GAMMA @ DISPLAY_P3.T @ np.linalg.inv(SRGB).T
    expected = encoded(linear)
    assert np.abs(found - expected).max() <= 2.5
    assert np.abs(found - COLORS.astype(float)).max() > 20  # or the profile would do nothing


def test_an_image_is_reduced_before_its_colours_are_converted() -> None:
    pixels = np.broadcast_to(np.uint8([200, 30, 90]), (64, 80, 3))
    small, whole = (
        decode(file_of(np.ascontiguousarray(pixels), rgb_profile(DISPLAY_P3)), side) for side in (16, 64)
    )
    np.testing.assert_array_equal(small.pixels[0, 0], whole.pixels[0, 0])


@pytest.mark.parametrize(
    "icc", [None, b"", b"no profile", rgb_profile(DISPLAY_P3)[:200], profile(b"RGB ", b"XYZ ", {})]
)
def test_a_profile_that_is_damaged_or_missing_changes_nothing(icc: bytes | None) -> None:
    np.testing.assert_array_equal(decode(file_of(COLORS, icc), 24).pixels, COLORS)


def test_a_profile_of_srgb_itself_changes_no_pixel() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(decode(file_of(COLORS, srgb), 24).pixels, COLORS)


def test_grey_with_a_profile_of_its_own_is_converted() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    bright = profile(b"GRAY", b"XYZ ", {b"kTRC": curve(1.5)})
    found = decode(file_of(levels, bright, mode="L"), 16).pixels
    assert np.abs(found[..., 0] - encoded((levels / 255) ** 1.5)).max() <= 3
    assert np.abs(found[..., 0] - levels.astype(float)).max() > 20
    assert (found == found[..., :1]).all()


def test_transparent_grey_has_the_colours_of_its_profile_too() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    bright = profile(b"GRAY", b"XYZ ", {b"kTRC": curve(1.5)})
    opaque = np.stack([levels, np.full_like(levels, 255)], axis=2)
    found = decode(file_of(np.ascontiguousarray(opaque), bright, mode="LA"), 16).pixels
    np.testing.assert_array_equal(found, decode(file_of(levels, bright, mode="L"), 16).pixels)


def test_a_profile_of_another_mode_changes_nothing() -> None:
    grey = profile(b"GRAY", b"XYZ ", {b"kTRC": curve(1.0)})
    np.testing.assert_array_equal(decode(file_of(COLORS, grey), 24).pixels, COLORS)
    levels = np.ascontiguousarray(COLORS[..., 0])
    found = decode(file_of(levels, rgb_profile(SRGB), mode="L"), 24).pixels
    assert np.ptp(found, axis=2).max() <= 2  # grey in RGB's profile stays grey


def cmyk_profile(inks: dict[int, tuple[int, int, int]]) -> bytes:
    """Colours of full inks as Lab in 8 bits; bits of the key are cyan (8), magenta, yellow and black (1)."""
    identity = bytes(range(256))
    corners = bytes(level for ink in range(16) for level in inks.get(ink, (0, 128, 128)))
    lut = (
        b"mft1"
        + bytes(4)
        + bytes([4, 3, 2, 0])
        + s15(np.eye(3).ravel())
        + identity * 4
        + corners
        + identity * 3
    )
    return profile(b"CMYK", b"Lab ", {b"A2B0": lut}, kind=b"prtr")


def of_lab(lightness: int, a: int, b: int) -> NDArray[np.float64]:
    """Levels of a colour in 8 bits of Lab (CIE 15, 8.2.1.1)."""
    fy = (100 * lightness / 255 + 16) / 116
    f = np.array([fy + (a - 128) / 500, fy, fy - (b - 128) / 200])
    values = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * D50
    return encoded(np.linalg.inv(SRGB) @ values)


@pytest.mark.parametrize("ink", [0, 8, 4, 2])
def test_inks_have_the_colours_that_their_profile_gives_them(ink: int) -> None:
    inks = {0: (255, 128, 128), 8: (140, 100, 90), 4: (120, 190, 125), 2: (225, 122, 200)}
    solid = [255 if ink & bit else 0 for bit in (8, 4, 2, 1)]
    pixels = np.ascontiguousarray(np.broadcast_to(np.uint8(solid), (24, 24, 4)))
    found = decode(file_of(pixels, cmyk_profile(inks), mode="CMYK", kind="TIFF"), 24).pixels
    assert np.abs(found - of_lab(*inks[ink])).max() <= 4
