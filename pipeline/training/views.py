"""Augmented views of a batch: batched, on the batch's device, with a draw of its own for every image.

A view is first drawn (`draw_view`: numbers, a row an image), then applied (`apply_view`: pixels), so that
a test can give torchvision the same numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.params.pretrain_views import Views
from pipeline.training.distributed.world import Share
from pipeline.training.resampling import crop_and_resize, rotate_and_shear

# B batch, S side of the view in pixels

# ITU-R BT.601 luma, in the digits that torchvision rounds to
_LUMA = (0.2989, 0.587, 0.114)
# SimCLR's blur kernel is a tenth of the image's side (arXiv:2002.05709, appendix A): a radius of a twentieth
_BLUR_RADIUS_PER_PIXEL = 0.05
# a kernel this narrow is 1 in the middle and 0 beside it, to the last bit of float32
_NO_BLUR = 1e-3
_VIEWS_AT_ONCE = 64


@dataclass(frozen=True)
class ViewDraw:
    """The random numbers behind one view of each image of a batch.

    Attributes:
        box: top, left, height and width of the crop in pixels, float [B, 4].
        flip: mirrored left to right, bool [B].
        vertical_flip: mirrored top to bottom, bool [B].
        degrees: clockwise rotation, float [B]; 0 is none.
        shear: horizontal shear in degrees, float [B]; 0 is none.
        brightness: factor, float [B]; 1 is none.
        contrast: factor, float [B]; 1 is none.
        saturation: factor, float [B]; 1 is none.
        hue: shift in turns, float [B]; 0 is none.
        grayscale: without colour, bool [B].
        sigma: of the blur in pixels, float [B]; `_NO_BLUR` is none.
        solarize: inverted at and above the threshold, bool [B].
    """

    box: Tensor
    flip: Tensor
    vertical_flip: Tensor
    degrees: Tensor
    shear: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    grayscale: Tensor
    sigma: Tensor
    solarize: Tensor

    def of(self, rows: NDArray[np.int64]) -> "ViewDraw":
        """The numbers of some of the images."""
        on_device = torch.from_numpy(rows).to(self.box.device, non_blocking=True)
        return ViewDraw(**{field.name: getattr(self, field.name)[on_device] for field in fields(self)})


def make_views(
    images: Tensor,
    params: Views,
    generator: torch.Generator,
    num_views: int = 2,
    share: Share | None = None,
) -> list[Tensor]:
    """Independent views of every image.

    Args:
        images: uint8 [B, H, W, 3], on the generator's device.
        params: what may happen to an image, how often and how strongly.
        generator: the only source of randomness.
        num_views: of each image.
        share: of a batch, that the images are; numbers are drawn for all of it, so that an image's views do
            not depend on how many processes share the batch. None: they are a whole batch.

    Returns:
        Tensors float32 [B, 3, S, S] in [0, 1], channels_last, S = `params.size`.
    """
    pixels = images.permute(0, 3, 1, 2).float() / 255  # NHWC memory is channels_last already
    num_images, _, height, width = pixels.shape
    views = []
    for _ in range(num_views):
        draw = draw_view(params, share.total if share else num_images, height, width, generator)
        views.append(apply_view(pixels, draw.of(share.rows) if share else draw, params))
    return views


def view_of_each(images: NDArray[np.uint8], params: Views, seed: int) -> NDArray[np.uint8]:
    """One view of each image, as large as the image: what an encoder of whole images can be asked about.

    Args:
        images: uint8 [M, H, W, 3], H = W.
        params: what may happen to an image; its `size` is not asked.
        seed: of the draw.

    Returns:
        uint8 [M, H, W, 3].
    """
    generator = torch.Generator().manual_seed(seed)
    as_large = params.model_copy(update={"size": images.shape[2]})
    views = np.empty_like(images)
    for start in range(0, len(images), _VIEWS_AT_ONCE):
        batch = torch.from_numpy(images[start : start + _VIEWS_AT_ONCE])
        (view,) = make_views(batch, as_large, generator, num_views=1)
        views[start : start + len(batch)] = to_pixels(view)
    return views


def to_pixels(view: Tensor) -> NDArray[np.uint8]:
    """float [B, 3, S, S] in [0, 1] as uint8 [B, S, S, 3]."""
    pixels: NDArray[np.uint8] = (view.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    return pixels


def draw_view(
    params: Views, num_images: int, height: int, width: int, generator: torch.Generator
) -> ViewDraw:
    """Draws the numbers of one view of each image; `height` and `width` of the images are in pixels."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(num_images, device=generator.device).uniform_(low, high, generator=generator)

    def happens(p: float) -> Tensor:
        return uniform(0, 1) < p

    def within(bound: float, chosen: Tensor) -> Tensor:
        return torch.where(chosen, uniform(-bound, bound), 0.0)

    crop, affine, jitter = params.crop, params.affine, params.color_jitter
    cropped, turned, jittered = happens(crop.p), happens(affine.p), happens(jitter.p)
    area = uniform(crop.scale.low, crop.scale.high) * height * width
    ratio = uniform(math.log(crop.ratio.low), math.log(crop.ratio.high)).exp()
    # too long for the image: as long as the image (torchvision draws anew up to ten times instead)
    box_height = torch.where(cropped, (area / ratio).sqrt().clamp(max=height), height)
    box_width = torch.where(cropped, (area * ratio).sqrt().clamp(max=width), width)
    top = uniform(0, 1) * (height - box_height)
    left = uniform(0, 1) * (width - box_width)
    return ViewDraw(
        box=torch.stack([top, left, box_height, box_width], dim=1),
        flip=happens(params.horizontal_flip.p),
        degrees=within(affine.degrees, turned),
        shear=within(affine.shear, turned),
        brightness=1 + within(jitter.brightness, jittered),
        contrast=1 + within(jitter.contrast, jittered),
        saturation=1 + within(jitter.saturation, jittered),
        hue=within(jitter.hue, jittered),
        grayscale=happens(params.grayscale.p),
        sigma=torch.where(
            happens(params.blur.p), uniform(params.blur.sigma.low, params.blur.sigma.high), _NO_BLUR
        ),
        solarize=happens(params.solarize.p),
        # drawn only where it can happen, so that the other numbers of runs without it stay as they were
        vertical_flip=happens(params.vertical_flip.p)
        if params.vertical_flip.p > 0
        else torch.zeros(num_images, dtype=torch.bool, device=generator.device),
    )


def apply_view(images: Tensor, draw: ViewDraw, params: Views) -> Tensor:
    """One view of each image, with the numbers of `draw`.

    Args:
        images: float [B, 3, H, W] in [0, 1].
        draw: a row an image.
        params: an operation whose probability is 0 there is left out.

    Returns:
        float [B, 3, S, S] in [0, 1].
    """
    if params.affine.p > 0:
        images = rotate_and_shear(images, draw.box, draw.degrees, draw.shear)
    views = crop_and_resize(images, draw.box, draw.flip, draw.vertical_flip, params.size)
    if params.color_jitter.p > 0:
        views = adjust_brightness(views, draw.brightness)
        views = adjust_contrast(views, draw.contrast)
        views = adjust_saturation(views, draw.saturation)
        if params.color_jitter.hue > 0:
            views = adjust_hue(views, draw.hue)
    if params.grayscale.p > 0:
        views = torch.where(_per_image(draw.grayscale), luma(views), views)
    if params.blur.p > 0:
        views = gaussian_blur(views, draw.sigma)
    if params.solarize.p > 0:
        inverted = torch.where(views >= params.solarize.threshold, 1 - views, views)
        views = torch.where(_per_image(draw.solarize), inverted, views)
    return views.contiguous(memory_format=torch.channels_last)


def luma(images: Tensor) -> Tensor:
    """The grey of RGB images, [B, 3, H, W] -> [B, 1, H, W]."""
    red, green, blue = images.unbind(1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue)[:, None]


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Each image [3, H, W] times its factor [B], cut off at 0 and 1."""
    return (images * _per_image(factor)).clamp(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Each image away from (factor > 1) or towards (factor < 1) its mean grey, cut off at 0 and 1."""
    return _blend(images, luma(images).mean(dim=(1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Each pixel away from or towards its own grey, cut off at 0 and 1."""
    return _blend(images, luma(images), factor)


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Each image's hue turned by its share of the colour circle [B], in HSV space.

    Args:
        images: float [B, 3, H, W] in [0, 1].
        turns: 1 is the whole circle, and so the same as 0.
    """
    value, channel = images.max(dim=1)
    chroma = value - images.amin(dim=1)
    red, green, blue = images.unbind(1)
    divisor = torch.where(chroma > 0, chroma, 1.0)
    # the hue in sixths of the circle, by the channel that is the largest
    sextant = torch.where(
        channel == 0,
        (green - blue) / divisor,
        torch.where(channel == 1, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    sextant = sextant + 6 * turns[:, None, None]
    # HSV to RGB: red, green and blue peak at 0, 2 and 4 sixths
    return torch.stack([_hsv_channel(sextant + offset, value, chroma) for offset in (5, 3, 1)], dim=1)


def _hsv_channel(sextant: Tensor, value: Tensor, chroma: Tensor) -> Tensor:
    position = sextant % 6
    return value - chroma * torch.minimum(position, 4 - position).clamp(0, 1)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Each image blurred with its own sigma [B] in pixels; the kernel is about a tenth of the side.

    The edge is mirrored without repeating the edge pixel.
    """
    side = images.shape[-1]
    radius = max(1, round(_BLUR_RADIUS_PER_PIXEL * side))
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    taps = (kernel / kernel.sum(dim=1, keepdim=True)).unbind(1)
    rows = _weighted_sum(F.pad(images, [0, 0, radius, radius], mode="reflect"), taps, dim=2)
    return _weighted_sum(F.pad(rows, [radius, radius, 0, 0], mode="reflect"), taps, dim=3)


def _weighted_sum(padded: Tensor, taps: Sequence[Tensor], dim: int) -> Tensor:
    """The sum of shifted images, each times its tap [B]; grouped convolutions are slower.

    It runs over the taps, or 256 views of 224 px would take 6.6 GiB.
    """
    side = padded.shape[dim] - len(taps) + 1
    total = padded.narrow(dim, 0, side) * _per_image(taps[0])
    for shift, tap in enumerate(taps[1:], start=1):
        total.addcmul_(padded.narrow(dim, shift, side), _per_image(tap))
    return total


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    weight = _per_image(factor)
    return (weight * images + (1 - weight) * other).clamp(0, 1)
