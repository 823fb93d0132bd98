"""The images that a page shows: each section takes its tiles here, so that each is drawn once."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.artifacts import UNLABELLED
from pipeline.collection.sources.collection import printable

_LONGEST = 80  # characters of a file's name


@dataclass(frozen=True)
class Tile:
    """A thumbnail and its words.

    Attributes:
        key: of the image, as `Run.pixels` counts.
        text: what who cannot see it is told.
        caption: the words under it; empty where there are none.
        mark: `right`, `wrong` or empty.
    """

    key: int
    text: str
    caption: str = ""
    mark: str = ""


@dataclass
class Album:
    """Images of a manifest, and which of them galleries show.

    Attributes:
        manifest: a row an image, in the order of the ids.
        shown: keys of the images of galleries.
    """

    manifest: pd.DataFrame
    shown: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.labels: NDArray[np.int64] = self.manifest["label"].to_numpy(dtype=np.int64)
        # words are read one by one: a page shows ten thousand images, and the collection may have millions
        self._class_names = self.manifest["class_name"].array
        self._splits = self.manifest["split"].array
        self._sources = self.manifest["source"].array

    def tile(self, id_: int, caption: str | None = None, mark: str = "", note: str = "") -> Tile:
        """The tile of an image.

        Args:
            id_: the manifest's.
            caption: None is its class.
            mark: `right`, `wrong` or empty.
            note: what else is said of it to who cannot see it.
        """
        self.shown.add(id_)
        words = [self.describe(id_), {"right": "right", "wrong": "wrong"}.get(mark, ""), note]
        caption = self.class_name(id_) if caption is None else caption
        return Tile(id_, ", ".join(filter(None, words)), caption, mark)

    def other_tile(self, key: int, text: str, caption: str = "") -> Tile:
        """The tile of a picture that is no image of the manifest."""
        self.shown.add(key)
        return Tile(key, text, caption)

    def describe(self, id_: int) -> str:
        """Like `class cat, test image 4403`."""
        name = f"class {self.class_name(id_)}, " if self.is_labelled(id_) else ""
        return f"{name}{self.split(id_)} image {id_}"

    def is_labelled(self, id_: int) -> bool:
        return bool(self.labels[id_] != UNLABELLED)

    def class_name(self, id_: int) -> str:
        """Empty where it has none."""
        return printable(str(self._class_names[id_])) if self.is_labelled(id_) else ""

    def split(self, id_: int) -> str:
        return str(self._splits[id_])

    def source(self, id_: int) -> str:
        """Its name in the collection, its middle left out where it is long."""
        return shortened(printable(str(self._sources[id_])))


def shortened(name: str, longest: int = _LONGEST) -> str:
    """A name of at most so many characters; its beginning and its end say the most."""
    if len(name) <= longest:
        return name
    half = (longest - 1) // 2
    return f"{name[: longest - 1 - half]}…{name[-half:]}"
