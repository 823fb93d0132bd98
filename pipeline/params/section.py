"""What every section of params.yaml is made of: strict, frozen, and the kinds of numbers."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
ProjectionDim = Annotated[int, Field(ge=2)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
NonEmpty = Annotated[str, Field(min_length=1)]
Device = Literal["auto", "cpu", "cuda"]


class Section(BaseModel):
    """A part of params.yaml: unknown keys are refused, values are never converted, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
