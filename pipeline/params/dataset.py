"""Section `dataset` of params.yaml: which images, and how they are split."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.params.section import NonEmpty, Probability, Section, Seed

NEEDS_A_PATH = {  # the collections of one's own, and what their dataset.path may be
    "folder": "a folder, a .tar, .tar.gz, .tgz or .zip",
    "parquet": "a .parquet file or a folder of them",
}


class Dataset(Section):
    """Which images, how large, and how they are split."""

    name: Literal["mnist5k", "scenes", "cifar10", "stl10", "folder", "parquet"]
    path: NonEmpty | None
    labels: Literal["auto", "folders", "none"]
    root: NonEmpty
    mirror: NonEmpty | None
    image_column: NonEmpty | None
    label_column: NonEmpty | None
    image_size: Annotated[int, Field(ge=8, le=1024)]
    test_fraction: Annotated[float, Field(gt=0, lt=1)]
    seed: Seed
    max_rejected: Probability
    train_test_duplicates: Literal["drop", "keep"]

    @model_validator(mode="after")
    def _own_images_have_a_path(self) -> "Dataset":
        if self.name in NEEDS_A_PATH and self.path is None:
            raise ValueError(f"path is empty, {self.name} needs {NEEDS_A_PATH[self.name]}")
        return self
