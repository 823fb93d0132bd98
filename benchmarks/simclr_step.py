"""SimCLR's training step beside lightly's, on the same images, backbone and batch, in one run.

    make bench
    python -m benchmarks.simclr_step --rounds 5 --archive cifar10.tar

The peer is lightly 1.6's own recipe for small images: its `SimCLRTransform` on PIL images in two worker
processes, its projection head and its `NTXentLoss`, float32. Ours is `pipeline.training.train` itself, with
the same augmentations. The sides take turns; the medians of the rounds are printed. lightly's first two
steps of a round, in which its workers fill their queue, are not counted; ours are all counted.
"""

import argparse
import io
import statistics
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from models.backbones import build_backbone
from pipeline.machine import choose_device, choose_precision
from pipeline.params import Pretrain, load_params
from pipeline.sources.collection import Pixels
from pipeline.sources.mnist5k import mnist5k
from pipeline.training import train
from pipeline.views import make_views

BATCH_SIZE = 256
HIDDEN_DIM, OUTPUT_DIM = 128, 64
# `SimCLRTransform(input_size=32, gaussian_blur=0)` in our params
LIGHTLY_VIEWS = {
    "size": 32,
    "crop": {"p": 1.0, "scale": {"low": 0.08, "high": 1.0}, "ratio": {"low": 0.75, "high": 4 / 3}},
    "horizontal_flip": {"p": 0.5},
    "vertical_flip": {"p": 0.0},
    "affine": {"p": 0.0, "degrees": 0, "shear": 0},
    "color_jitter": {"p": 0.8, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2},
    "grayscale": {"p": 0.2},
    "blur": {"p": 0.0, "sigma": {"low": 0.1, "high": 2.0}},
    "solarize": {"p": 0.0, "threshold": 0.5},
}


class PilImages(Dataset[list[torch.Tensor]]):
    """What lightly's transform is made for: one PIL image at a time."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images
        self.transform = SimCLRTransform(input_size=32, gaussian_blur=0.0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        views: list[torch.Tensor] = self.transform(Image.fromarray(self.images[index]))
        return views


def lightly_views_per_s(images: NDArray[np.uint8], width: int) -> float:
    """One epoch of lightly's SimCLR: views per second after its first two steps."""
    device = choose_device("auto")
    torch.manual_seed(0)
    backbone = build_backbone("resnet20", width=width, image_size=32)
    head = SimCLRProjectionHead(backbone.feature_dim, HIDDEN_DIM, OUTPUT_DIM)
    model = nn.Sequential(backbone.module, head).to(device)
    criterion = NTXentLoss(temperature=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)
    loader = DataLoader(PilImages(images), BATCH_SIZE, shuffle=True, drop_last=True, num_workers=2)
    seconds, last = [], time.perf_counter()
    for view0, view1 in loader:
        loss = criterion(model(view0.to(device)), model(view1.to(device)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        seconds.append(time.perf_counter() - last)
        last = time.perf_counter()
    return 2 * BATCH_SIZE * len(seconds[2:]) / sum(seconds[2:])


def our_params(width: int) -> Pretrain:
    """One epoch of the default run, with lightly's augmentations and dimensions."""
    values = load_params().pretrain.model_dump()
    values |= {"epochs": 1, "batch_size": BATCH_SIZE, "views": LIGHTLY_VIEWS}
    values["backbone"] |= {"name": "resnet20", "width": width}
    values["simclr"] |= {"hidden_dim": HIDDEN_DIM, "output_dim": OUTPUT_DIM}
    values["optimizer"] |= {"warmup_epochs": 0.0}
    values["monitor"] |= {"holdout_fraction": 0.001, "bank_size": 1, "k": 1}
    return Pretrain.model_validate(values)


def seconds_of_views(images: NDArray[np.uint8], params: Pretrain) -> float:
    """Making both views of one batch."""
    device = choose_device("auto")
    generator = torch.Generator(device).manual_seed(0)
    started = time.perf_counter()
    view0, view1 = make_views(torch.from_numpy(images[:BATCH_SIZE]).to(device), params.views, generator)
    (view0.sum() + view1.sum()).item()  # waits for the device
    return time.perf_counter() - started


def read_archive(path: Path, count: int) -> NDArray[np.uint8]:
    """The first 32 px images of a .tar, uint8 [count, 32, 32, 3]."""

    def decoded() -> Iterator[NDArray[np.uint8]]:
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    yield np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))

    return np.stack([image for image, _ in zip(decoded(), range(count), strict=False)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--archive", type=Path, help="a .tar of 32 px images; without it, the MNIST digits")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=14, help="of each side in each round")
    parser.add_argument("--width", type=int, default=16, help="of the ResNet-20")
    args = parser.parse_args()

    count = BATCH_SIZE * args.steps
    if args.archive:
        images = read_archive(args.archive, count)
    else:
        contents = mnist5k(load_params().dataset).contents()
        images = np.stack([digit.values for _, digit in contents if isinstance(digit, Pixels)])[:count]
    params = our_params(args.width)
    device = choose_device("auto")
    print(f"{device.type}, {choose_precision(params.precision, device)}, {torch.get_num_threads()} threads")
    ours, lightly, views = [], [], []
    # a few more than whole batches, for the part that `train` holds out
    labels = np.zeros(len(images) + BATCH_SIZE // 2, dtype=np.int64)
    padded = np.concatenate([images, images[: BATCH_SIZE // 2]])
    for round_ in range(1, args.rounds + 1):
        lightly.append(lightly_views_per_s(images, args.width))
        ours.append(train(padded, labels, params).views_per_s)
        views += [seconds_of_views(images, params) for _ in range(5)]
        print(f"round {round_}: ours {ours[-1]:.0f} views/s, lightly {lightly[-1]:.0f} views/s", flush=True)
    rate, peer = statistics.median(ours), statistics.median(lightly)
    share = statistics.median(views) / (2 * BATCH_SIZE / rate)
    print(f"ours {rate:.0f} views/s, lightly {peer:.0f} views/s: {rate / peer:.2f} times")
    print(f"the views are {100 * share:.1f} % of our step")


if __name__ == "__main__":
    main()
