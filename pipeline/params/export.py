"""Section `export` of params.yaml: the encoder's name, its precision and its gates."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.section import Count, NonEmpty, Positive, Probability, Section


class Tolerance(Section):
    """How far the searches of an encoder in fewer bits may be from those of the one in float32.

    Attributes:
        min_overlap_at_10: the least share of the ten nearest that are the same.
        max_knn_loss: the most that it may lose of kNN's top-1, where there are labels.
    """

    min_overlap_at_10: Probability
    max_knn_loss: Probability


class Int8(Tolerance):
    """That, and how many training images the ranges of its values are taken from."""

    calibration_images: Count


class Export(Section):
    """The name that the encoder carries, how far it may stand from torch in float32, and its precision."""

    name: NonEmpty
    version: NonEmpty
    max_abs_difference: Positive
    min_cosine: Annotated[float, Field(gt=0, le=1)]
    precision: Literal["fp32", "fp16", "int8"]
    fp16: Tolerance
    int8: Int8
