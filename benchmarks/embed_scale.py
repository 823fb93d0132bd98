"""Stage `embed` against the number of images: `python -m benchmarks.embed_scale [--engine ray]`.

Made-up images of 8 pixels through a toy encoder (one matrix, 128 dimensions), so that what is measured is all
that is done an image beside the network: lists, shards and outputs. Each count is a process of its own. The
memory is that of the stage's own process at most (RssAnon), without the files that it maps.
"""

import argparse
import hashlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.index.changes import write_encoder

SIZE, DIM = 8, 128
_ROOT = Path(__file__).resolve().parents[1]
_COUNTS = (10_000, 100_000, 1_000_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--counts", type=int, nargs="+", default=_COUNTS)
    arguments = parser.parse_args()
    print(f"{'images':>9} {'seconds':>8} {'MiB':>6} {'bytes more an image':>20}")
    before: tuple[int, int] | None = None
    for count in arguments.counts:
        with tempfile.TemporaryDirectory() as folder:
            write_project(Path(folder), count, arguments.engine)
            seconds, num_bytes = measure(Path(folder))
        more = "" if before is None else f"{(num_bytes - before[1]) / (count - before[0]):20.1f}"
        print(f"{count:9,} {seconds:8.1f} {num_bytes / 2**20:6.0f} {more}", flush=True)
        before = count, num_bytes


def write_project(folder: Path, count: int, engine: str) -> None:
    """What stage `embed` reads: a fifth for testing, labels on all, names as long as those of real files."""
    text = (_ROOT / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("engine: local", f"engine: {engine}"))
    rng = np.random.default_rng(0)
    data, counts = folder / "data", {"train": count - count // 5, "test": count // 5}
    for path, num in (
        *((f"images/{split}", num) for split, num in counts.items()),
        ("pretrain/augmented", 1000),
    ):
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        np.save(data / f"{path}.npy", rng.integers(0, 256, (num, SIZE, SIZE, 3), dtype=np.uint8))
    pd.DataFrame(
        {
            "id": np.arange(count),
            "split": np.repeat(list(counts), list(counts.values())),
            "label": np.arange(count) % 10,
            "class_name": [f"class {number % 10}" for number in range(count)],
            "source": [f"train/class {number % 10}/photograph-{number:09}.jpg" for number in range(count)],
            "sha256": [hashlib.sha256(b"%d" % number).hexdigest() for number in range(count)],
        }
    ).to_parquet(data / "images/manifest.parquet")
    collection = {"name": "noise", "num_images": counts, "sha256": "ab"}
    (data / "images/collection.json").write_text(json.dumps(collection))
    (data / "encoder").mkdir()
    for seed, name in enumerate(("encoder", "start")):
        write_encoder(data / f"encoder/{name}.onnx", DIM, SIZE, seed, data_sha256="ab")


def measure(folder: Path) -> tuple[float, int]:
    """Seconds of the stage, and the most bytes that it took."""
    environment = os.environ | {"PYTHONPATH": str(_ROOT)}
    command = [sys.executable, "-c", "from benchmarks.embed_scale import run; run()"]
    done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    seconds, num_bytes = done.stdout.splitlines()[-1].split()
    return float(seconds), int(num_bytes)


def run() -> None:
    """The stage in this folder and process; prints seconds and the most bytes."""
    most, is_done = 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not is_done.wait(0.02):
            (line,) = (
                line
                for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith("RssAnon")
            )
            most = max(most, 1024 * int(line.split()[1]))

    thread = threading.Thread(target=look)
    thread.start()
    started = time.perf_counter()
    try:
        runpy.run_module("stages.embed", run_name="__main__", alter_sys=True)
    finally:
        is_done.set()
        thread.join()
    print(time.perf_counter() - started, most)


if __name__ == "__main__":
    main()
