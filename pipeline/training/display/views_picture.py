"""A picture of what training sees: a wrong augmentation is seen at once."""

import numpy as np
import torch
from PIL import Image

from pipeline.params.pretrain import Pretrain
from pipeline.pictures import Tile, draw_rows
from pipeline.training.pixels import Images
from pipeline.training.views import make_views, to_pixels

_PICTURED = 8  # images


def draw_views(images: Images, params: Pretrain) -> Image.Image:
    """Some images, spread over the collection, each beside its views.

    Args:
        images: uint8 [N, H, W, 3].
        params: of the run; its seed draws the views.
    """
    rows = np.linspace(0, len(images) - 1, min(_PICTURED, len(images))).astype(np.int64)
    batch = images[rows]
    generator = torch.Generator().manual_seed(params.seed)
    views = make_views(torch.from_numpy(batch), params.views, generator, params.num_views)
    tiles = [to_pixels(view) for view in views]
    return draw_rows(
        [
            (Tile(image, "image"), [Tile(each[i], f"view {n}") for n, each in enumerate(tiles, start=1)])
            for i, image in enumerate(batch)
        ]
    )
