"""The views that labelled images are learned from."""

from pipeline.params.finetune import LightViews
from pipeline.params.pretrain_views import Views


def light_views(params: LightViews, size: int) -> Views:
    """Crops, flips and another brightness, at a size in pixels; what contrast needs beside them is off."""
    return Views.model_validate(
        {
            "size": size,
            "crop": {
                "p": 1.0,
                "scale": {"low": params.min_area, "high": 1.0},
                "ratio": {"low": 0.75, "high": 1.333},
            },
            "horizontal_flip": {"p": params.horizontal_flip},
            "vertical_flip": {"p": 0.0},
            "affine": {"p": 0.0, "degrees": 0.0, "shear": 0.0},
            "color_jitter": {"p": 1.0, "brightness": params.brightness}
            | dict.fromkeys(("contrast", "saturation", "hue"), 0.0),
            "grayscale": {"p": 0.0},
            "blur": {"p": 0.0, "sigma": {"low": 1.0, "high": 1.0}},
            "solarize": {"p": 0.0, "threshold": 1.0},
        }
    )
