"""STL-10: 113,000 photos of 96 x 96 pixels, most of them without a label, downloaded (2.6 GB) or found."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import UNLABELLED
from pipeline.collection.sources.collection import Collection, Content, Entry
from pipeline.collection.sources.fetched_archive import extracted, pixels
from pipeline.params.dataset import Dataset

SIDE = 96  # pixels


def stl10(params: Dataset) -> Collection:
    """5,000 images to train on and 8,000 for testing, of ten classes, and 100,000 unlabelled.

    The pixels are read image by image: those of the unlabelled alone are 2.7 GB.

    Raises:
        UserError, MachineError, OSError: as `extracted`.

    Source: Coates, Ng and Lee 2011, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning".
    """
    from torchvision.datasets import STL10  # type: ignore[import-untyped]  # slow, and for few

    folder = extracted(STL10, {STL10.class_names_file: None}, params)
    (train_images, _), (train_labels, _), (unlabelled_images, _) = STL10.train_list
    (test_images, _), (test_labels, _) = STL10.test_list
    images = {
        "train": _images(folder / train_images),
        "test": _images(folder / test_images),
        "unlabelled": _images(folder / unlabelled_images),
    }
    labels = {
        "train": _labels(folder / train_labels),
        "test": _labels(folder / test_labels),
        "unlabelled": [UNLABELLED] * len(images["unlabelled"]),
    }

    def contents() -> Iterator[tuple[int, Content]]:
        every = (image for split in images.values() for image in split)
        for number, image in enumerate(every):
            yield number, pixels(image)

    return Collection(
        class_names=tuple((folder / STL10.class_names_file).read_text(encoding="utf-8").splitlines()),
        entries=[
            Entry(f"stl10/{split}/{row}", split, label)
            for split in images
            for row, label in enumerate(labels[split])
        ],
        contents=contents,
    )


def _images(path: Path) -> NDArray[np.uint8]:
    """A memory map of an image file, uint8 [N, H, W, 3]; on disk an image is [3, W, H]."""
    return np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, 3, SIDE, SIDE).transpose(0, 3, 2, 1)


def _labels(path: Path) -> list[int]:
    """The labels counted from 0; on disk they are bytes that count from 1."""
    return [label - 1 for label in path.read_bytes()]
