"""How fast images go through an encoder: by threads and batch size, by stage `embed`'s loop, and by torch.

    python -m benchmarks.encoder.embedding
    python -m benchmarks.encoder.embedding --sweep
    python -m benchmarks.encoder.embedding --networks resnet20:32 --rounds 10
    python -m benchmarks.encoder.embedding --processor-time --batch 32

Without `--sweep`, in turns: onnxruntime on batches that are ready in memory; the loop of stage `embed`, from
a file that the system has not in memory to a file; torch, eager, in float32. With it, onnxruntime alone, by
threads (up to twice the cores) and batch. Weights are random: they do not change the speed. The last lines
are the ratios, the median of the rounds and their range. On a machine that others use too, `--processor-time`
compares one thread of each side, by the processor's time that it took.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from models.backbones import build_backbone
from pipeline.encoder.embed import embed_to_file
from pipeline.encoder.export import PixelEncoder, trace, write_onnx
from pipeline.encoder.runtime import Encoder

NETWORKS = (("resnet20", 32), ("resnet18", 32), ("efficientnet_lite0", 224), ("resnet18", 224))
_BATCHES = (1, 8, 32, 64, 128, 256, 512)
_STAGE_BATCHES = 4


def colour_patches(num_images: int, size: int) -> np.ndarray:
    """uint8 [N, H, W, 3]."""
    colours = np.random.default_rng(0).integers(0, 256, (num_images, 4, 4, 3), dtype=np.uint8)
    place = np.arange(size) * 4 // size
    return colours[:, place][:, :, place]


def write_network(name: str, size: int, path: Path) -> PixelEncoder:
    """A network with random weights, as stage `export` writes it."""
    torch.manual_seed(0)
    built = build_backbone(name, width=None, image_size=size)
    module = PixelEncoder(built.module, [0.5] * 3, [0.25] * 3).eval()
    metadata = {"name": name, "image_size": size, "feature_dim": built.feature_dim}
    write_onnx(trace(module, size), module, metadata, path)
    return module


def batch_of(size: int) -> int:
    """As the recipes have it."""
    return 256 if size <= 64 else 32


def images_per_s(run: Callable[[], int], clock: Callable[[], float], seconds: float) -> float:
    """Of what is run until so many seconds are over; it returns how many images it did."""
    started, num_images = clock(), 0
    while clock() - started < seconds:
        num_images += run()
    return num_images / (clock() - started)


def len_of(encoder: Encoder, batch: np.ndarray) -> int:
    return len(encoder(batch))


def sweep(name: str, size: int, args: argparse.Namespace) -> None:
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        write_network(name, size, path)
        counts = sorted({1, *(count for count in (2, 4, 8, 16) if count < cores), cores, 2 * cores})
        encoders = {threads: Encoder.open(path, "cpu", threads) for threads in counts}
        images = colour_patches(max(_BATCHES) if size <= 64 else 64, size)
        found: dict[tuple[int, int], list[float]] = {}
        for _ in range(args.rounds):
            for threads, encoder in encoders.items():
                for batch_size in _BATCHES:
                    if batch_size <= len(images):
                        batch = images[:batch_size]
                        run = partial(len_of, encoder, batch)
                        speed = images_per_s(run, time.perf_counter, args.seconds)
                        found.setdefault((threads, batch_size), []).append(speed)
    for threads in encoders:
        speeds = [
            f"{batch_size}: {statistics.median(found[threads, batch_size]):,.0f}"
            for batch_size in _BATCHES
            if (threads, batch_size) in found
        ]
        print(f"{name} {size} px, {threads} threads, images/s by batch: {', '.join(speeds)}", flush=True)


def ratio(speeds: list[float], by: list[float]) -> str:
    """The median over the rounds, and their range."""
    ratios = [own / other for own, other in zip(speeds, by, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def compare(name: str, size: int, args: argparse.Namespace) -> list[str]:
    """Prints the speeds; returns a line for each ratio."""
    clock, threads = (
        (time.process_time, 1) if args.processor_time else (time.perf_counter, os.cpu_count() or 1)
    )
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        module = write_network(name, size, folder / "encoder.onnx")
        encoder = Encoder.open(folder / "encoder.onnx", "cpu", threads)
        batch_size = args.batch or batch_of(size)
        batch = colour_patches(batch_size, size)
        np.save(folder / "images.npy", np.concatenate([batch] * _STAGE_BATCHES))
        rows = np.arange(_STAGE_BATCHES * batch_size)

        def by_onnxruntime() -> int:
            return len(encoder(batch))

        def by_the_stage() -> int:
            with (folder / "images.npy").open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # read from the disk again
            images = np.load(folder / "images.npy", mmap_mode="r")
            embed_to_file(encoder, images, rows, batch_size, folder / "embeddings.npy", name)
            return len(rows)

        def by_torch() -> int:
            with torch.inference_mode():
                return len(module(torch.from_numpy(batch)))

        sides = {"ready batches": by_onnxruntime, "stage embed": by_the_stage, "torch eager": by_torch}
        speeds: dict[str, list[float]] = {side: [] for side in sides}
        for run in sides.values():
            run()
        for _ in range(args.rounds):
            for side, run in sides.items():
                speeds[side].append(images_per_s(run, clock, args.seconds))
    what = f"{name} {size} px, batches of {batch_size}"
    for side, found in speeds.items():
        print(f"{what}: {side} {statistics.median(found):,.1f} images/s", flush=True)
    pairs = (
        ("stage embed", "ready batches"),
        ("ready batches", "torch eager"),
        ("stage embed", "torch eager"),
    )
    return [f"{what}: {side} / {by} {ratio(speeds[side], speeds[by])}" for side, by in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=[f"{name}:{size}" for name, size in NETWORKS[:3]])
    parser.add_argument("--sweep", action="store_true", help="threads times batch sizes instead")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="a side and round")
    parser.add_argument("--batch", type=int, help="images; not given: as the recipes have it")
    parser.add_argument("--processor-time", action="store_true", help="of one thread, in place of seconds")
    args = parser.parse_args()
    ratios = []
    for network in args.networks:
        name, _, size = network.rpartition(":")
        if args.sweep:
            sweep(name, int(size), args)
        else:
            ratios += compare(name, int(size), args)
    print("\n".join(ratios))


if __name__ == "__main__":
    main()
