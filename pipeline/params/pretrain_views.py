"""Section `pretrain.views` of params.yaml: how an image becomes a view."""

from typing import Annotated

from pydantic import Field, model_validator

from pipeline.params.section import Positive, Probability, Section


class Range(Section):
    """An interval that a draw is uniform in."""

    low: Positive
    high: Positive

    @model_validator(mode="after")
    def _low_is_not_above_high(self) -> "Range":
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) must not be above high ({self.high})")
        return self


class Crop(Section):
    """Random resized crop: the share of the area, and width over height (drawn on a log scale)."""

    p: Probability
    scale: Range
    ratio: Range

    @model_validator(mode="after")
    def _no_larger_than_the_image(self) -> "Crop":
        if self.scale.high > 1:
            raise ValueError(f"scale.high ({self.scale.high}) must not be above 1, the whole image")
        return self


class Flip(Section):
    p: Probability


class Affine(Section):
    """Rotation and horizontal shear, both uniform in plus or minus their bound, in degrees."""

    p: Probability
    degrees: Annotated[float, Field(ge=0, le=180)]
    shear: Annotated[float, Field(ge=0, le=60)]


class ColorJitter(Section):
    """Factors uniform in 1 plus or minus the bound; hue uniform in plus or minus the bound, in turns."""

    p: Probability
    brightness: Probability
    contrast: Probability
    saturation: Probability
    hue: Annotated[float, Field(ge=0, le=0.5)]


class Grayscale(Section):
    p: Probability


class Blur(Section):
    """Gaussian blur; sigma in pixels."""

    p: Probability
    sigma: Range


class Solarize(Section):
    """Inverts the values at and above the threshold, on the scale from 0 to 1."""

    p: Probability
    threshold: Probability


class Views(Section):
    """How an image becomes a view, in the order in which it happens."""

    size: Annotated[int, Field(ge=8, le=1024)]
    crop: Crop
    horizontal_flip: Flip
    vertical_flip: Flip
    affine: Affine
    color_jitter: ColorJitter
    grayscale: Grayscale
    blur: Blur
    solarize: Solarize
