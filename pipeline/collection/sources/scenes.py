"""1,200 photographs of landscapes and streets that come with the project: real images in any clone."""

from pathlib import Path

from pipeline.collection.sources.collection import Collection
from pipeline.collection.sources.folder import images_of
from pipeline.params.dataset import Dataset

ARCHIVE = Path(__file__).with_name("scenes.zip")  # docs/scenes.md says where they are from


def scenes(params: Dataset) -> Collection:
    """Buildings, forests, glaciers, mountains, seas and streets, of each 150 to learn from, 50 to test on."""
    return images_of(ARCHIVE, params)
