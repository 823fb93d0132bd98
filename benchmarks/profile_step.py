"""Where the milliseconds of a training step go, operator by operator, and what the machine could do at most.

    python -m benchmarks.profile_step
    python -m benchmarks.profile_step --backbone resnet18 --batch-size 128

SimCLR with the augmentations of `benchmarks.simclr_step` on random images of 32 px. Printed are, in one run:
the rates of a large matrix product and of one convolution in the precision of the run; the views/s of the
whole step and of the same step on views made beforehand, taking turns; the operators that take most time.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.simclr_step import our_params
from models.backbones import build_backbone
from models.methods import METHODS
from pipeline.training.hardware.machine import choose_device, keep_freed_memory, make_deterministic
from pipeline.training.hardware.precision import choose_precision
from pipeline.training.optimizers import build_optimizer
from pipeline.training.views import make_views

_ROWS = 14  # operators printed


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of one call, the device's own work included."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def print_ceiling(device: torch.device, dtype: torch.dtype) -> None:
    """The best of ten: a matrix product of side 2,048, and a 3x3 convolution of 64 channels."""
    side, batch, channels, pixels = 2048, 256, 64, 16
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    images = torch.randn(batch, channels, pixels, pixels, device=device, dtype=dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    works: dict[str, tuple[Callable[[], Tensor], int]] = {
        "matrix product": (lambda: matrix @ matrix, 2 * side**3),
        "convolution": (
            lambda: F.conv2d(images, weight, padding=1),
            2 * batch * channels**2 * 9 * pixels**2,
        ),
    }
    for name, (work, flop) in works.items():
        best = min(seconds(work, device) for _ in range(10))
        print(f"{name}: {flop / best / 1e9:.0f} GFLOP/s in {str(dtype).removeprefix('torch.')}")


def print_operators(profiler: profile, num_steps: int, *, on_gpu: bool) -> None:
    """The operators that take the most of a step, a line each."""
    times = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in profiler.key_averages()
    }
    total = sum(times.values())
    print(f"\n{'operator':44} ms a step      %")
    for name, microseconds in sorted(times.items(), key=lambda item: -item[1])[:_ROWS]:
        print(f"{name[:44]:44} {microseconds / 1000 / num_steps:9.1f} {100 * microseconds / total:6.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backbone", default="resnet20")
    parser.add_argument("--width", type=int, help="of its first stage, where not as published")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=8, help="of each kind")
    args = parser.parse_args()

    params = our_params("lightly", args.backbone)
    device = choose_device("auto")
    precision = choose_precision("auto", device)
    make_deterministic(0)
    keep_freed_memory()
    dtype = getattr(torch, precision)
    print(f"{device.type}, {torch.get_num_threads()} threads")
    print_ceiling(device, dtype)

    backbone = build_backbone(args.backbone, width=args.width, image_size=32)
    objective = METHODS["simclr"](backbone.module, backbone.feature_dim, **params.simclr.arguments())
    objective = objective.to(device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(objective.parts(), params.optimizer)
    generator = torch.Generator(device).manual_seed(0)
    images = torch.randint(0, 256, (args.batch_size, 32, 32, 3), dtype=torch.uint8, device=device)
    labels = torch.zeros(args.batch_size, dtype=torch.int64, device=device)
    ready = make_views(images, params.views, generator)

    def step(views: list[Tensor]) -> None:
        with torch.autocast(device.type, dtype, enabled=precision != "float32"):
            objective(views, labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def whole_step() -> None:
        step(make_views(images, params.views, generator))

    whole_step()  # the first one reserves memory and chooses kernels
    whole, bare = [], []
    for _ in range(args.steps):
        whole.append(seconds(whole_step, device))
        bare.append(seconds(lambda: step(ready), device))
    num_views = 2 * args.batch_size
    rate, bare_rate = num_views / statistics.median(whole), num_views / statistics.median(bare)
    print(f"{rate:.0f} views/s, {bare_rate:.0f} on views made beforehand: {100 * rate / bare_rate:.0f} %")

    activities = [ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU]
    with profile(activities=activities) as profiler:
        for _ in range(args.steps):
            whole_step()
    print_operators(profiler, args.steps, on_gpu=device.type == "cuda")


if __name__ == "__main__":
    main()
