"""Section `report` of params.yaml: how much the page shows."""

from typing import Annotated

from pydantic import Field

from pipeline.params.section import Count, Section, Seed


class Report(Section):
    """The images of the map, the searches that are shown, and the draw of both."""

    map_images: Annotated[int, Field(ge=1, le=10_000)]  # more would make a page of more than 15 MB
    num_queries: Count
    seed: Seed
