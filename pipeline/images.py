"""The one way a file becomes pixels: whatever reads an image, reads it here."""

import functools
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from pipeline.errors import UserError

# Written into the encoder's metadata, so that any other stack can prepare its pixels in the same way.
RESIZE_RULE = "short side to image_size, centre crop"
INTERPOLATION = "bicubic, antialiased (Pillow)"

# The formats that are read. Pillow knows more, some of which run other programs (EPS runs Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")
# What a file that is meant to be an image is called. Those that are not read are listed, so that a person
# learns what was left out.
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
        *(".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".psd"),
    )
)
# What cameras call what their sensor saw, which somebody has to develop first; mostly a JPEG lies beside it.
RAW_SUFFIXES = frozenset(
    (
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef", ".nrw"),
        *(".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
    )
)

# A picture above this is refused before it is decoded, a file above that before it is read.
MAX_PIXELS = 100_000_000
MAX_BYTES = 512 * 2**20
# What decoding takes at most beyond the file itself, measured over formats and modes at MAX_PIXELS: WebP is
# the worst (1,565 MiB), then grey PNG with alpha (1,242); AVIF and HEIF would take 911 and 739, by what they
# did at 20 megapixels.
MAX_MEMORY_BYTES = 1_700_000_000

_ORIENTATION_TAG = 0x0112
# EXIF 2.32, table 6: what brings each orientation upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = range(5, 9)
_SRGB = ImageCms.createProfile("sRGB")
_UNSEEN = 2  # of 255: what the sRGB profiles of cameras and programs differ by
# ISO/IEC 23008-12, annex B.4: what stands in a file of HEIF behind `ftyp`; AVIF's are not among them.
_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
# JPEGs are decoded at 1/2, 1/4 or 1/8 of their size while twice the size wanted is left.
_REDUCING_GAP = 2


class UnreadableImageError(ValueError):
    """Bytes that give no pixels. The message is the reason alone, in one line and without the file's name."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image as the chain sees it.

    Attributes:
        pixels: uint8 [size, size, 3], RGB.
        width: of the image as it is stored, in pixels.
        height: likewise.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int


def decode(content: bytes, size: int, max_pixels: int = MAX_PIXELS) -> Decoded:
    """The bytes of an image file as RGB pixels, upright, square.

    The first frame of an animation, the first page of a TIFF. EXIF orientation is applied; transparency is
    laid on white; 16-bit grey is divided by 257; 32-bit and floating-point grey is cut off at 0 and 255;
    palettes, CMYK and every other mode are converted by Pillow. Colours of an embedded ICC profile become
    those of sRGB, by its perceptual intent; a profile that is damaged is passed over. The short side is
    resized to `size` and the centre is cut out; an image that is `size` x `size` already keeps its pixels. A
    JPEG is decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 of its size that leaves it twice as large as
    `size` on both sides (for 12 megapixels on one core ten times as fast to 96 px, seven times to 224 px).

    Args:
        content: a file in one of `FORMATS`, whatever it is called.
        size: height and width in pixels.
        max_pixels: an image of more is refused before it is decoded.

    Raises:
        UnreadableImageError: it is none of these formats, damaged, or has too many pixels.
    """
    if not content:
        raise UnreadableImageError("empty file")
    try:
        with warnings.catch_warnings():
            # Pillow warns of what it then raises, or reads all the same
            warnings.simplefilter("ignore")
            return _decode(io.BytesIO(content), _formats(content), size, max_pixels)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError(f"not an image of a format that is read ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise UnreadableImageError(f"too many pixels, at most {max_pixels:,} are read") from None
    except MemoryError:
        raise
    except Exception as error:
        # on damaged files Pillow's decoders raise all there is: OSError, SyntaxError, struct.error, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(f"damaged image ({reason})") from None


def read_image(path: Path, size: int) -> NDArray[np.uint8]:
    """An image file as pixels, by `decode`: uint8 [size, size, 3].

    Raises:
        UserError: there is no such file, or it is not an image that can be read.
        PermissionError: the file may not be read.
    """
    try:
        check_num_bytes(path.stat().st_size)
        return decode(path.read_bytes(), size).pixels
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, not an image: name its files") from None
    except UnreadableImageError as error:
        raise UserError(f"{path}: {error}") from None


def fit(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Decoded pixels, uint8 [H, W, 3], as `decode` would resize and cut them: uint8 [size, size, 3]."""
    return np.asarray(_square(Image.fromarray(pixels), size))


def check_num_bytes(num_bytes: int) -> None:
    """Refuses a file that is too large to be read into memory.

    Raises:
        UnreadableImageError: it has more than `MAX_BYTES`.
    """
    if num_bytes > MAX_BYTES:
        raise UnreadableImageError(f"{num_bytes:,} bytes, at most {MAX_BYTES:,} are read")


def _decode(file: BinaryIO, formats: tuple[str, ...], size: int, max_pixels: int) -> Decoded:
    with Image.open(file, formats=formats) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise UnreadableImageError(f"{width} x {height} pixels, at most {max_pixels:,} are read")
        orientation = _orientation(image)
        if image.format == "TIFF":  # which Pillow turns as it loads it, and whose size it says turned
            width, height = (height, width) if orientation in _ON_ITS_SIDE else (width, height)
            orientation = 1
        profile = image.info.get("icc_profile")
        # does nothing to formats other than JPEG
        image.draft(None, (_REDUCING_GAP * size, _REDUCING_GAP * size))
        # turned and coloured only after it is small: a square cut out of the centre turns into itself
        square = _square(_flat(image, _space(profile)), size)
    square = _in_srgb(square, profile)
    if orientation in _UPRIGHT:
        square = square.transpose(_UPRIGHT[orientation])
    return Decoded(np.asarray(square), width, height)


def _formats(content: bytes) -> tuple[str, ...]:
    """Those that it may be in."""
    if content[4:8] != b"ftyp" or content[8:12] not in _HEIF_BRANDS:
        return FORMATS[:-1]
    _read_heif_too()
    return FORMATS


@functools.cache
def _read_heif_too() -> None:
    import pillow_heif  # 0.08 s, which other formats have no use for

    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return 1  # damaged EXIF data are no reason to do without the image


def _flat(image: Image.Image, mode: str) -> Image.Image:
    """Without transparency, 8 bits a channel; RGB, but for an image of the mode that its profile is for."""
    image.load()
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image, dtype=np.uint16) // 257).astype(np.uint8))
    elif image.mode == "LA" and mode == "L":
        layer, image = image, Image.new("L", image.size, 255)
        image.paste(layer.getchannel("L"), mask=layer.getchannel("A"))
    elif image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", image.size, (255, 255, 255))
        image.paste(layer, mask=layer.getchannel("A"))
    return image if image.mode in ("RGB", mode) else image.convert("RGB")


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The same colours in sRGB; as they are, where the profile is of another mode, damaged or sRGB itself."""
    transform = _to_srgb(profile) if profile and image.mode == _space(profile) else None
    if transform is not None:
        return transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


@functools.lru_cache(maxsize=32)  # a camera's photographs have one
def _space(profile: bytes | None) -> str:
    """The mode of the images that a profile is for, of those that can be brought to sRGB: RGB where none."""
    try:
        space = ImageCms.ImageCmsProfile(io.BytesIO(profile or b"")).profile.xcolor_space
    except Exception:
        return "RGB"
    return {"CMYK": "CMYK", "GRAY": "L"}.get(space, "RGB")


@functools.lru_cache(maxsize=32)
def _to_srgb(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """None for a profile that is damaged, or that changes no colour by more than `_UNSEEN`."""
    mode = _space(profile)
    try:
        transform = ImageCms.buildTransform(io.BytesIO(profile), _SRGB, mode, "RGB")
    except Exception:
        return None
    levels = np.arange(0, 256, 51, dtype=np.uint8)
    cube = np.stack(np.meshgrid(*[levels] * len(mode)), axis=-1).reshape(1, -1, len(mode))
    some = Image.frombytes(mode, (cube.shape[1], 1), cube.tobytes())
    change = np.asarray(transform.apply(some), dtype=int) - np.asarray(some.convert("RGB"), dtype=int)
    return transform if np.abs(change).max() > _UNSEEN else None


def _square(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
