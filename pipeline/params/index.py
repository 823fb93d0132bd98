"""Section `index` of params.yaml: the kind of index and the recall wanted of it."""

from typing import Annotated

from pydantic import Field

from pipeline.params.section import Count, NonEmpty, Positive, Section, Seed

MOST_OF_A_THUMBNAIL = 1024  # pixels


class Index(Section):
    """`auto`, or any factory string of FAISS; for an approximate one, the recall@10 that it surely reaches.

    An index may take so many GiB, and of `auto` two; one that takes more is merged on disk where it can be.
    With it lie thumbnails of at most so many pixels on their longer side; 0: none.
    """

    factory: NonEmpty
    memory_gib: Positive
    target_recall: Annotated[float, Field(gt=0, le=1)]
    num_queries: Count
    seed: Seed
    thumbnail_size: Annotated[int, Field(ge=0, le=MOST_OF_A_THUMBNAIL)]
