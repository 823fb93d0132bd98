"""The one way a file becomes pixels: whatever reads an image, reads it here."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import UserError

# Written into the encoder's metadata, so that any other stack can prepare its pixels in the same way.
RESIZE_RULE = "short side to image_size, centre crop"
INTERPOLATION = "bicubic, antialiased (Pillow)"

# A picture above this is refused before it is decoded: 4 bytes a pixel, so at most 400 MB while decoding.
MAX_PIXELS = 100_000_000
_WHITE = (255, 255, 255, 255)


def read_image(path: Path, size: int) -> NDArray[np.uint8]:
    """An image file as RGB pixels, upright, square.

    EXIF orientation is applied; transparency is laid on white; 16-bit grey is scaled to 8 bits; every other
    mode is converted by Pillow. The short side is resized to `size` and the centre is cut out; an image that
    is `size` x `size` already keeps its pixels.

    Args:
        path: a file in any format that Pillow reads; the first frame of an animation.
        size: height and width in pixels.

    Returns:
        uint8 [size, size, 3].

    Raises:
        UserError: there is no such file, it is no image, it is cut short, or it has too many pixels.
        PermissionError: the file may not be read.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"{path}: {image.width} x {image.height} pixels, at most {MAX_PIXELS:,} are read: "
                    "make it smaller"
                )
            return np.asarray(_square(_upright_rgb(image), size))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, not an image: name its files") from None
    except PermissionError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image that Pillow can read") from None
    except Image.DecompressionBombError:
        raise UserError(
            f"{path}: too many pixels, at most {MAX_PIXELS:,} are read: make it smaller"
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, UserError):
            raise
        # Pillow's decoders raise any of these on a damaged file.
        raise UserError(f"{path}: damaged image ({error})") from None


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        values = np.asarray(image, dtype=np.uint16)
        return Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        background = Image.new("RGBA", image.size, _WHITE)
        return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _square(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
