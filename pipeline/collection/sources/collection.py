"""What a source says of its images before any of them is decoded."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import SPLITS
from pipeline.collection.columns import MadeWhenAsked
from pipeline.collection.sources.remote import RemoteFile


@dataclass(frozen=True, slots=True)
class Entry:
    """One image that a source lists.

    Attributes:
        source: where it came from, printable, the same on every machine.
        split: train, test or unlabelled.
        label: index into the collection's class names, or -1 where there is none.
    """

    source: str
    split: str
    label: int


class Entries(MadeWhenAsked[Entry]):
    """Entries by columns, in a few bytes an image beside its name.

    Args:
        sources: [N].
        splits: numbers in `SPLITS`, int8 [N].
        labels: [N].
    """

    def __init__(self, sources: Sequence[str], splits: NDArray[np.int8], labels: NDArray[np.int64]) -> None:
        self._sources, self._splits, self._labels = sources, splits, labels

    def __len__(self) -> int:
        return len(self._sources)

    def _made(self, place: int) -> Entry:
        return Entry(self._sources[place], SPLITS[self._splits[place]], int(self._labels[place]))


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes of an image file, or of a member of an uncompressed archive, left where they are."""

    path: Path | RemoteFile
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Pixels:
    """An image that needs no decoding.

    Attributes:
        values: uint8 [H, W, 3].
        width: of the image before padding, in pixels.
        height: likewise.
        sha256: of the source's own bytes, in hexadecimal.
    """

    values: NDArray[np.uint8]
    width: int
    height: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An image whose bytes cannot be had, and why."""

    reason: str


Content = bytes | Span | Pixels | Unreadable


@dataclass(frozen=True)
class Collection:
    """What a source holds.

    Attributes:
        class_names: in the order of the labels; empty where there are no labels.
        entries: every image, in the order of the ids within each split.
        contents: yields (row of `entries`, content) for each of them once, in the order in which the source
            is quickest to read.
        remarks: what a person should know of how the source was understood, a line each.
    """

    class_names: tuple[str, ...]
    entries: Sequence[Entry]
    contents: Callable[[], Iterator[tuple[int, Content]]]
    remarks: tuple[str, ...] = ()


def printable(name: str) -> str:
    r"""A file's name as UTF-8 text on one line.

    Bytes that are no UTF-8 (surrogates, as Python's file system calls give them), line breaks and other
    control characters are written as escapes:

    >>> printable("caf\udce9\n.png")
    'caf\\xe9\\x0a.png'
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode().replace("\\n", "\\x0a")
        for char in text
    )


def choose_test(
    names: Iterable[str], labels: Sequence[int] | NDArray[np.int64], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """A stratified, seeded choice of test images: of each class the rounded fraction, at most all but one.

    Within a class the images stand in the order of a hash of seed and name, and the first are chosen. So an
    image that is added or removed moves at most one other of its class from one split to the other, where
    a shuffle would move a fifth of the collection.

    Args:
        names: [N], distinct.
        labels: [N].
        fraction: of each class, above 0 and below 1.
        seed: another one chooses others.

    Returns:
        Whether each image is for testing, [N].
    """
    hashes = np.empty(len(labels), dtype=np.uint64)  # of a sha256 the first eight bytes decide
    for row, name in enumerate(names):
        digest = hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).digest()
        hashes[row] = int.from_bytes(digest[:8], "big")
    order = np.argsort(hashes, kind="stable")
    order = order[np.argsort(np.asarray(labels)[order], kind="stable")]
    _, starts, counts = np.unique(np.asarray(labels)[order], return_index=True, return_counts=True)
    chosen = np.zeros(len(order), dtype=np.bool_)
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        num_test = min(count - 1, int(fraction * count + 0.5))
        chosen[order[start : start + num_test]] = True
    return chosen
