"""CIFAR-10: 60,000 photos of 32 x 32 pixels in ten classes, downloaded (170 MB) or found."""

from collections.abc import Iterator

from pipeline.collection.sources.collection import Collection, Content, Entry
from pipeline.collection.sources.fetched_archive import extracted, pixels
from pipeline.params.dataset import Dataset


def cifar10(params: Dataset) -> Collection:
    """50,000 images to train on and 10,000 for testing.

    Raises:
        UserError, MachineError, OSError: as `extracted`.

    Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
    """
    from torchvision.datasets import CIFAR10  # type: ignore[import-untyped]  # slow, and for few

    folder = extracted(CIFAR10, {CIFAR10.meta["filename"]: CIFAR10.meta["md5"]}, params)
    parts = {"train": CIFAR10(folder.parent, train=True), "test": CIFAR10(folder.parent, train=False)}

    def contents() -> Iterator[tuple[int, Content]]:
        images = (image for part in parts.values() for image in part.data)
        for number, image in enumerate(images):
            yield number, pixels(image)

    return Collection(
        class_names=tuple(parts["train"].classes),
        entries=[
            Entry(f"cifar10/{split}/{row}", split, int(label))
            for split, part in parts.items()
            for row, label in enumerate(part.targets)
        ],
        contents=contents,
    )
