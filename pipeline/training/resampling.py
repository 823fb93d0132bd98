"""The pixels of a view: a crop of each image, turned, flipped and resized, with a box of its own an image."""

import torch
import torch.nn.functional as F
from torch import Tensor

# B batch, H height, W width of the image, S side of the view, N pixels along an axis of the image


def crop_and_resize(images: Tensor, box: Tensor, flip: Tensor, vertical_flip: Tensor, size: int) -> Tensor:
    """The boxes, flipped where that was drawn, as square views: bilinear, antialiased where they shrink.

    With whole numbers in a box this is torchvision's `resized_crop(antialias=True)`. Each axis is a product
    with a matrix an image: of 256 images of 224 px 34 GFLOP, a hundredth of a ResNet-18's step on them.

    Args:
        images: float [B, 3, H, W].
        box: top, left, height and width in pixels, float [B, 4], within the image.
        flip: left to right, bool [B].
        vertical_flip: top to bottom, bool [B].
        size: S.

    Returns:
        float [B, 3, S, S].
    """
    num_images, _, height, width = images.shape
    top, left, box_height, box_width = box.unbind(1)
    rows_BSH = axis_weights(top, box_height, vertical_flip, height, size)
    columns_BSW = axis_weights(left, box_width, flip, width, size)
    pixels = images.permute(0, 2, 3, 1)  # the memory's own order where it is channels_last
    pixels = rows_BSH @ pixels.reshape(num_images, height, width * 3)
    pixels = pixels.view(num_images, size, width, 3).transpose(1, 2)
    pixels = columns_BSW @ pixels.reshape(num_images, width, size * 3)
    return pixels.view(num_images, size, size, 3).permute(0, 3, 2, 1)


def axis_weights(start: Tensor, length: Tensor, mirrored: Tensor, num_pixels: int, size: int) -> Tensor:
    """How much each pixel of an image counts for each pixel of its view, along one axis.

    A triangle around the place that the view's pixel has in the image; it reaches as far as one pixel of
    the image, or of the view where that is larger. Pixels that the box does not touch count for nothing.

    Args:
        start: of the box in pixels, float [B].
        length: of the box in pixels, float [B].
        mirrored: bool [B].
        num_pixels: N, of the image.
        size: S, of the view.

    Returns:
        float [B, S, N]; each row sums to 1.
    """
    places_S = (torch.arange(size, device=start.device) + 0.5) / size
    places_BS = torch.where(mirrored[:, None], 1 - places_S, places_S)
    centres_BS = start[:, None] + length[:, None] * places_BS
    reach_B = (length / size).clamp(min=1)
    first_N = torch.arange(num_pixels, device=start.device)
    touched_BN = (first_N + 1 > start[:, None]) & (first_N < (start + length)[:, None])
    away_BSN = (first_N + 0.5 - centres_BS[:, :, None]).abs() / reach_B[:, None, None]
    weights_BSN = (1 - away_BSN).clamp(min=0) * touched_BN[:, None]
    return weights_BSN / weights_BSN.sum(dim=2, keepdim=True)


def rotate_and_shear(images: Tensor, box: Tensor, degrees: Tensor, shear: Tensor) -> Tensor:
    """Turns each image about the middle of its box, such that the resized box is turned by these angles.

    torchvision would resize first; what a turn brings in from outside the box is the image around it here,
    there black.

    Args:
        images: float [B, 3, H, W].
        box: as `crop_and_resize` takes it.
        degrees: clockwise rotation, float [B].
        shear: horizontal, in degrees, float [B].

    Returns:
        float [B, 3, H, W], bilinear; what lies outside the image repeats its edge.
    """
    height, width = images.shape[2:]
    top, left, box_height, box_width = box.unbind(1)
    angle, slope = torch.deg2rad(degrees), torch.tan(torch.deg2rad(shear))
    cos, sin = torch.cos(angle), torch.sin(angle)
    # From a pixel of the turned image back to the image, in coordinates from -1 to 1. In those of the square
    # view the matrix would be (cos - sin slope, cos slope + sin; -sin, cos).
    stretch = (box_width / width) / (box_height / height)
    centre_x, centre_y = (2 * left + box_width) / width - 1, (2 * top + box_height) / height - 1
    xx, xy = cos - sin * slope, (cos * slope + sin) * stretch
    yx, yy = -sin / stretch, cos
    row_x = torch.stack([xx, xy, centre_x - xx * centre_x - xy * centre_y], 1)
    row_y = torch.stack([yx, yy, centre_y - yx * centre_x - yy * centre_y], 1)
    grid = F.affine_grid(torch.stack([row_x, row_y], dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
