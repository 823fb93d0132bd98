"""Section `finetune` of params.yaml: how the backbone learns on from a share of the labels."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.section import (
    Count,
    Device,
    NonNegative,
    Positive,
    Probability,
    Section,
    Seed,
)


class LightViews(Section):
    """How a labelled image becomes a view: less than contrast needs, since its label must stay right.

    Attributes:
        min_area: the smallest crop, as a share of the image.
        horizontal_flip: how often it is mirrored.
        brightness: factors are uniform in 1 plus or minus this.
    """

    min_area: Annotated[float, Field(gt=0, le=1)]
    horizontal_flip: Probability
    brightness: Probability


class Finetune(Section):
    """A training of the backbone and a classifier on labelled images; none where there are no epochs.

    Attributes:
        share: of the labelled training images.
        lr: peak learning rate of the classifier, by AdamW; linear warm-up of an epoch, then a cosine to 0.
        backbone_lr_factor: the backbone's is so many times that.
        temperature: of the classifier's cosines.
        batch_norm: `frozen`: the statistics and scales of all batch norms stay those of the encoder.
        max_abs_difference: between torch and onnxruntime, or the stage fails; so does `min_cosine`.
    """

    epochs: Annotated[int, Field(ge=0)]
    share: Annotated[float, Field(gt=0, le=1)]
    seed: Seed
    device: Device
    precision: Literal["auto", "bfloat16", "float32"]
    batch_size: Count
    lr: Positive
    backbone_lr_factor: Positive
    weight_decay: NonNegative
    temperature: Positive
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    batch_norm: Literal["train", "frozen"]
    views: LightViews
    max_abs_difference: Positive
    min_cosine: Annotated[float, Field(gt=0, le=1)]

    def learned(self) -> bytes:
        """As JSON, but for what changes nothing in what is learned."""
        return self.model_dump_json(exclude={"max_abs_difference", "min_cosine"}).encode()
