"""The sources by name. A new one is a file here, a line below and a name in `pipeline/params.py`."""

from collections.abc import Callable

from pipeline.params import Dataset
from pipeline.sources.cifar10 import cifar10
from pipeline.sources.collection import Collection
from pipeline.sources.folder import folder
from pipeline.sources.mnist5k import mnist5k
from pipeline.sources.parquet import parquet
from pipeline.sources.stl10 import stl10

SOURCES: dict[str, Callable[[Dataset], Collection]] = {
    "mnist5k": mnist5k,
    "cifar10": cifar10,
    "stl10": stl10,
    "folder": folder,
    "parquet": parquet,
}
