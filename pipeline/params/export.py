"""Section `export` of params.yaml: the encoder's name and its gate."""

from typing import Annotated

from pydantic import Field

from pipeline.params.section import NonEmpty, Positive, Section


class Export(Section):
    """The name that the encoder carries, and how far it may stand from torch."""

    name: NonEmpty
    version: NonEmpty
    max_abs_difference: Positive
    min_cosine: Annotated[float, Field(gt=0, le=1)]
