"""SimCLR's training step beside its peers', on the same images, backbone and batch, in one run.

    make bench
    python -m benchmarks.simclr_step --archive cifar10.tar
    python -m benchmarks.simclr_step --archive cifar10.tar --backbone resnet20 --steps 14
    python -m benchmarks.simclr_step --archive cifar10.tar --backbone resnet20 --compile

The peers stand in `benchmarks/peers.py`. Ours is `pipeline.training.loop.train` itself, with the
augmentations of the peer that it is compared with. The sides take turns, each time in a process of its own;
printed are the medians of the rounds, and the most memory that the training process ever held, with what it
imports. No side's first steps count: the peers' workers fill their queue in them, and of ours they are the
first of two epochs. Against us: the second epoch counts with its monitors, and the peers' memory is without
that of their workers."""

import argparse
import io
import multiprocessing
import statistics
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from models.backbones import BACKBONES, build_backbone
from pipeline.collection.sources.collection import Pixels
from pipeline.collection.sources.mnist5k import mnist5k
from pipeline.errors import UserError, plain_errors
from pipeline.params.pretrain import Pretrain
from pipeline.params.reader import load_params
from pipeline.training.hardware.machine import choose_device
from pipeline.training.hardware.precision import choose_precision
from pipeline.training.loop import train
from pipeline.training.views import make_views

BATCH_SIZE = 256
HIDDEN_DIM, OUTPUT_DIM = 128, 64
# lightly's `SimCLRTransform(input_size=32, gaussian_blur=0)` in our params
VIEWS = {
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
BLURRED_VIEWS = VIEWS | {"blur": {"p": 1.0, "sigma": {"low": 0.1, "high": 2.0}}}
VIEWS_OF = {"lightly": VIEWS, "sthalles": BLURRED_VIEWS}


@dataclass(frozen=True)
class Measured:
    """Of one side in one round."""

    views_per_s: float
    peak_mib: float


def measure_peer(peer: str, backbone_name: str, images: NDArray[np.uint8], params: Pretrain) -> Measured:
    """One epoch of a peer's step, and its process's memory."""
    from benchmarks.peers import IMAGE_SIZE, PEERS  # here: our own process is measured without lightly

    torch.manual_seed(0)
    backbone = build_backbone(backbone_name, width=None, image_size=IMAGE_SIZE)
    seconds = PEERS[peer](backbone, images, BATCH_SIZE, params.simclr.hidden_dim, params.simclr.output_dim)
    return Measured(2 * BATCH_SIZE * len(seconds) / sum(seconds), peak_mib())


def measure_ours(peer: str, backbone_name: str, images: NDArray[np.uint8], params: Pretrain) -> Measured:
    """The second of two epochs of our loop, and its process's memory."""
    # a few more than whole batches, for the part that `train` holds out
    padded = np.concatenate([images, images[: BATCH_SIZE // 2]])
    labels = np.zeros(len(padded), dtype=np.int64)
    ends: list[float] = []
    train(padded, labels, params, on_epoch=lambda history: ends.append(time.perf_counter()))
    return Measured(2 * BATCH_SIZE * (len(images) // BATCH_SIZE) / (ends[-1] - ends[-2]), peak_mib())


def our_params(peer: str, backbone_name: str, compiled: bool = False) -> Pretrain:
    """Two epochs of the default run with a peer's augmentations and lightly's dimensions."""
    values = load_params().pretrain.model_dump()
    values |= {"epochs": 2, "batch_size": BATCH_SIZE, "views": VIEWS_OF[peer], "compile": compiled}
    values["backbone"] |= {"name": backbone_name, "width": None}
    values["simclr"] |= {"hidden_dim": HIDDEN_DIM, "output_dim": OUTPUT_DIM}
    values["optimizer"] |= {"warmup_epochs": 0.0}
    values["monitor"] |= {"holdout_fraction": 0.001, "bank_size": 1, "k": 1}
    return Pretrain.model_validate(values)


def peak_mib() -> float:
    """The most memory that this process held at a time; where the device has its own, the most of that."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    # not getrusage's, which a process takes over from the one that started it
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def seconds_of_views(images: NDArray[np.uint8], params: Pretrain) -> float:
    """Making both views of one batch; the median of ten."""
    device = choose_device("auto")
    generator = torch.Generator(device).manual_seed(0)
    batch = torch.from_numpy(images[:BATCH_SIZE]).to(device)
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        view0, view1 = make_views(batch, params.views, generator)
        (view0.sum() + view1.sum()).item()  # waits for the device
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def read_archive(path: Path, count: int) -> NDArray[np.uint8]:
    """The first 32 px images of a .tar, uint8 [count, 32, 32, 3]."""

    def decoded() -> Iterator[NDArray[np.uint8]]:
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    yield np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))

    try:
        return np.stack([image for image, _ in zip(decoded(), range(count), strict=False)])
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"--archive {path}: {error}") from None


def compare(backbone_name: str, images: NDArray[np.uint8], num_rounds: int, compiled: bool) -> None:
    """Prints our step beside each peer's."""
    spawn = multiprocessing.get_context("spawn")
    for peer in VIEWS_OF:
        params = our_params(peer, backbone_name, compiled)
        ours, theirs = [], []
        for round_ in range(1, num_rounds + 1):
            for measure, results in ((measure_peer, theirs), (measure_ours, ours)):
                with ProcessPoolExecutor(1, mp_context=spawn) as process:
                    results.append(process.submit(measure, peer, backbone_name, images, params).result())
            rates = f"ours {ours[-1].views_per_s:.0f} views/s, {peer} {theirs[-1].views_per_s:.0f}"
            print(f"{backbone_name}, round {round_}: {rates}", flush=True)
        rate, peer_rate = (statistics.median(side.views_per_s for side in sides) for sides in (ours, theirs))
        peak, peer_peak = (statistics.median(side.peak_mib for side in sides) for sides in (ours, theirs))
        share = seconds_of_views(images, params) / (2 * BATCH_SIZE / rate)
        print(
            f"{backbone_name}: {rate:.0f} views/s, {rate / peer_rate:.2f} times {peer}'s {peer_rate:.0f}\n"
            f"{backbone_name}: {peak:.0f} MiB, {peak / peer_peak:.2f} times {peer}'s {peer_peak:.0f}\n"
            f"{backbone_name}: {peer}'s views are {100 * share:.1f} % of our step",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--archive", type=Path, help="a .tar of 32 px images; without it, the MNIST digits")
    parser.add_argument("--backbone", choices=BACKBONES, action="append", help="resnet20 and resnet18")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=14, help="of each side in each round")
    parser.add_argument("--compile", action="store_true", help="ours under torch.compile (pretrain.compile)")
    args = parser.parse_args()

    count = BATCH_SIZE * args.steps
    if args.archive:
        images = read_archive(args.archive, count)
    else:
        contents = mnist5k(load_params().dataset).contents()
        images = np.stack([digit.values for _, digit in contents if isinstance(digit, Pixels)])[:count]
    device = choose_device("auto")
    precision = choose_precision(load_params().pretrain.precision, device)
    print(f"{device.type}, {precision}, {torch.get_num_threads()} threads")
    for backbone_name in args.backbone or ("resnet20", "resnet18"):
        compare(backbone_name, images, args.rounds, args.compile)


if __name__ == "__main__":
    with plain_errors():
        main()
