"""The sources by name. A new one is a file here, a line below and a name in `pipeline/params/dataset.py`."""

from collections.abc import Callable

from pipeline.collection.sources.cifar10 import cifar10
from pipeline.collection.sources.collection import Collection
from pipeline.collection.sources.folder import folder
from pipeline.collection.sources.mnist5k import mnist5k
from pipeline.collection.sources.parquet import parquet
from pipeline.collection.sources.scenes import scenes
from pipeline.collection.sources.stl10 import stl10
from pipeline.params.dataset import Dataset

SOURCES: dict[str, Callable[[Dataset], Collection]] = {
    "mnist5k": mnist5k,
    "scenes": scenes,
    "cifar10": cifar10,
    "stl10": stl10,
    "folder": folder,
    "parquet": parquet,
}
