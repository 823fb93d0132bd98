"""Decoding a folder of images to one array, beside torchvision's ImageFolder with a worker a core.

    python -m benchmarks.ingest --archive cifar10.tar
    python -m benchmarks.ingest --archive cifar10.tar --num-images 100000 --side 96 --rounds 1

The images are the archive's, enlarged to `--side` and written as JPEGs, class by class, to a temporary
folder. Both sides end with a uint8 .npy file. They take turns in one run. Printed are the medians of images/s
and the most memory that ours held beyond the mapped file: the anonymous memory of all its processes.
"""

import argparse
import io
import os
import statistics
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.arrays import create_array
from pipeline.collection.ingest import ingest
from pipeline.collection.sources.folder import folder
from pipeline.images import read_image
from pipeline.params.dataset import Dataset
from pipeline.params.reader import load_params


class Pixels:
    """The peer's transform: what `pipeline.images.read_image` gives for an image of the right size."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        return np.array(image.resize((self.side, self.side), Image.Resampling.BICUBIC))


def write_images(archive: Path, top: Path, num_images: int, side: int) -> None:
    """JPEGs of `side` px under `top/<class>/`, the archive's images over and over until there are enough."""
    with tarfile.open(archive) as packed:
        members = [member for member in packed if member.isfile()]
        for number, member in zip(range(num_images), cycle(members)):
            content = packed.extractfile(member)
            assert content is not None
            image = Image.open(io.BytesIO(content.read())).resize((side, side), Image.Resampling.BICUBIC)
            path = top / Path(member.name).parent.name / f"{number:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, quality=90)


def ours(dataset: Dataset, out: Path) -> None:
    out.mkdir()
    ingest(folder(dataset), dataset, out)


def peers(top: Path, side: int, out: Path) -> None:
    # here, since our workers import this file and should not pay for what they do not use
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    images = ImageFolder(top, Pixels(side))
    array = create_array(out, np.uint8, (len(images), side, side, 3))
    start = 0
    for batch, _ in DataLoader(images, batch_size=64, num_workers=os.cpu_count() or 1):
        array[start : start + len(batch)] = batch.numpy()
        start += len(batch)


@contextmanager
def most_memory() -> Iterator[list[int]]:
    """The most anonymous memory, in bytes, that this process and its children held in the block."""
    most = [0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            most[0] = max(most[0], anonymous_memory(os.getpid()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        done.set()
        watcher.join()


def anonymous_memory(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return 0  # it ended meanwhile
    own = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)
    return own * 1024 + sum(anonymous_memory(int(child)) for child in children)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--archive", type=Path, required=True, help="CIFAR-10 as a .tar of image files")
    parser.add_argument("--num-images", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=96, help="pixels")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {"ours": [], "torchvision": []}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        write_images(options.archive, work / "images", options.num_images, options.side)
        dataset = load_params().dataset.model_copy(
            update={"name": "folder", "path": str(work / "images"), "image_size": options.side}
            | {"train_test_duplicates": "keep"}
        )
        before = anonymous_memory(os.getpid())
        for round_ in range(options.rounds):
            with most_memory() as most:
                started = time.perf_counter()
                ours(dataset, work / f"ours{round_}")
                rates["ours"].append(options.num_images / (time.perf_counter() - started))
            started = time.perf_counter()
            peers(work / "images", options.side, work / f"peers{round_}.npy")
            rates["torchvision"].append(options.num_images / (time.perf_counter() - started))
        picture = next((work / "images").rglob("*.jpg"))
        assert read_image(picture, options.side).shape == (options.side, options.side, 3)
    for side, values in rates.items():
        print(f"{side}: {statistics.median(values):,.0f} images/s of {[round(value) for value in values]}")
    ratio = statistics.median(rates["ours"]) / statistics.median(rates["torchvision"])
    print(f"ratio {ratio:.2f}; ours held {(most[0] - before) / 2**20:,.0f} MiB beyond the mapped file")


if __name__ == "__main__":
    main()
