"""Every stage of the chain against the number of images: seconds, memory, disk.

    python -m benchmarks.scale
    python -m benchmarks.scale --counts 10000 100000 --stages embed --engine ray
    python -m benchmarks.scale --folder scale --counts 1000000 --stages evaluate report

A table of made-up images of 8 pixels in 20 classes, a thousandth of them copies, goes through the stages as
`dvc repro` runs them, each in a process of its own, with a network so small that it is not what is measured
(ResNet-10 of width 16: 128 dimensions), and with 30 steps at most for a probe. Printed are of each stage the
seconds, the most memory that it and its children held as their own (RssAnon, without the files that they
map), what that is more for each image than at the count before, and the bytes of its outputs.

With `--stages` those before them run where their outputs are missing, unmeasured. With `--folder` the
projects stay there, and the next run begins with what they hold.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from pipeline.params.reader import parse_yaml
from pipeline.recipes import lay_over, parse_setting

SIZE, CLASSES = 8, 20
_ROOT = Path(__file__).resolve().parents[1]
_COUNTS = (10_000, 100_000, 1_000_000)
_CHAIN: dict[str, Any] = parse_yaml((_ROOT / "dvc.yaml").read_text(), _ROOT / "dvc.yaml")["stages"]
_COPY_OF_BEFORE = 1000  # every so manyth image has the bytes of the one before it
_CONTRAST, _NOISE = 64, 30  # levels: how far the classes' pictures are apart at most, and deviations
_ROWS_AT_ONCE = 10_000
_SETTINGS = (
    *("dataset.name=parquet", "dataset.path=images.parquet", f"dataset.image_size={SIZE}"),
    *("pretrain.epochs=1", "pretrain.batch_size=256", f"pretrain.views.size={SIZE}"),
    *("pretrain.backbone.name=resnet10", "pretrain.backbone.width=16"),
    # of features that nothing was learned for, a fit takes hundreds of steps, or ten: that would be measured
    *("evaluate.linear.max_iterations=30", "report.map_images=2000"),
)


@dataclass(frozen=True)
class Measured:
    """One stage on one collection."""

    seconds: float
    num_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=_COUNTS)
    parser.add_argument("--stages", nargs="+", choices=_CHAIN, default=list(_CHAIN), metavar="STAGE")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="of stage embed")
    parser.add_argument("--folder", type=Path, help="where the projects stay; without it they are temporary")
    arguments = parser.parse_args()
    print(
        f"{'stage':9} {'images':>9} {'seconds':>8} {'peak MiB':>8} {'bytes more an image':>20} {'disk MB':>8}"
    )
    before: dict[str, tuple[int, int]] = {}
    for count in arguments.counts:
        with tempfile.TemporaryDirectory() as temporary:
            project = (arguments.folder or Path(temporary)).resolve() / str(count)
            write_project(project, count, arguments.engine)
            for stage in until(arguments.stages):
                if stage not in arguments.stages:
                    is_there = all(path.exists() for path in outs(project, stage))
                    if not is_there or "always_changed" in _CHAIN[stage]:
                        run(stage, project)
                    continue
                found = run(stage, project)
                more = f"{'':20}"
                if stage in before:
                    fewer, less = before[stage]
                    more = f"{(found.num_bytes - less) / (count - fewer):20.0f}"
                before[stage] = count, found.num_bytes
                disk = sum(map(size_of, outs(project, stage))) / 1e6
                peak = found.num_bytes / 2**20
                print(f"{stage:9} {count:9,} {found.seconds:8.1f} {peak:8.0f} {more} {disk:8.1f}", flush=True)


def until(stages: Sequence[str]) -> list[str]:
    """The chain up to the last of these."""
    names = list(_CHAIN)
    return names[: 1 + max(map(names.index, stages))]


def write_project(project: Path, count: int, engine: str) -> None:
    """params.yaml, and the table of images where it is not there yet."""
    project.mkdir(parents=True, exist_ok=True)
    settings = [parse_setting(setting) for setting in (*_SETTINGS, f"embed.engine={engine}")]
    (project / "params.yaml").write_text(lay_over((_ROOT / "params.yaml").read_text(), settings))
    table = project / "images.parquet"
    if not table.exists():
        partial = table.with_suffix(".partial")
        write_table(partial, count)
        partial.rename(table)


def write_table(path: Path, count: int) -> None:
    """Images as Hugging Face's tables have them: structs of bytes and path, and a label."""
    image = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    schema = pyarrow.schema({"image": image, "label": pyarrow.int64()})
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for numbers, pixels in made_up_images(count):
            labels = numbers % CLASSES
            names = [
                f"class {label:02}/photograph-{number:09}.bmp"
                for number, label in zip(numbers, labels, strict=True)
            ]
            files = pyarrow.StructArray.from_arrays(
                [as_bitmaps(pixels), pyarrow.array(names)], fields=list(image)
            )
            writer.write_table(pyarrow.table([files, pyarrow.array(labels)], schema=schema))


def made_up_images(count: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Numbers, and pictures, uint8 [n, SIZE, SIZE, 3]: those of the classes, lighter or darker, and noise."""
    rng = np.random.default_rng(0)
    pictures = 128 + rng.integers(-_CONTRAST // 2, _CONTRAST // 2, (CLASSES, SIZE, SIZE, 3))
    for start in range(0, count, _ROWS_AT_ONCE):
        numbers = np.arange(start, min(count, start + _ROWS_AT_ONCE))
        noise = rng.normal(0, _NOISE, (len(numbers), SIZE, SIZE, 3))
        brighter = rng.normal(0, _NOISE, (len(numbers), 1, 1, 1))
        pixels = np.clip(pictures[numbers % CLASSES] + brighter + noise, 0, 255).astype(np.uint8)
        copies = np.flatnonzero(numbers % _COPY_OF_BEFORE == _COPY_OF_BEFORE - 1)
        pixels[copies] = pixels[copies - 1]
        yield numbers, pixels


def as_bitmaps(pixels: NDArray[np.uint8]) -> pyarrow.BinaryArray:
    """Files of uint8 [n, SIZE, SIZE, 3], as BMP: the one format that costs no coding."""
    header = np.zeros(54, dtype=np.uint8)
    header[:2] = np.frombuffer(b"BM", np.uint8)
    fields = {2: 54 + 3 * SIZE**2, 10: 54, 14: 40, 18: SIZE, 22: SIZE, 34: 3 * SIZE**2}
    for place, value in fields.items():
        header[place : place + 4] = np.frombuffer(np.array(value, "<u4").tobytes(), np.uint8)
    header[26], header[28] = 1, 24  # planes, bits a pixel; rows of 24 bytes need no padding
    rows = pixels[:, ::-1, :, ::-1].reshape(len(pixels), -1)
    files = np.concatenate([np.tile(header, (len(pixels), 1)), rows], axis=1)
    offsets = np.arange(len(files) + 1, dtype=np.int32) * files.shape[1]
    return pyarrow.Array.from_buffers(
        pyarrow.binary(), len(files), [None, pyarrow.py_buffer(offsets), pyarrow.py_buffer(files)]
    )


def outs(project: Path, stage: str) -> list[Path]:
    """What the stage writes, as dvc.yaml says."""
    listed = _CHAIN[stage]["outs"]
    return [project / (next(iter(each)) if isinstance(each, dict) else each) for each in listed]


def size_of(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def run(stage: str, project: Path) -> Measured:
    """The stage in the project, as DVC runs it; what it says goes to a file beside."""
    environment = os.environ | {"PYTHONPATH": str(_ROOT)}
    started = time.perf_counter()
    with (project / f"{stage}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", f"stages.{stage}"],
            cwd=project,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        most = most_bytes(process)
    seconds = time.perf_counter() - started
    if process.returncode:
        said = (project / f"{stage}.log").read_text()
        sys.exit(f"{stage} ended with exit code {process.returncode}:\n{said[-2000:]}")
    return Measured(seconds, most)


def most_bytes(process: subprocess.Popen[bytes]) -> int:
    """The most that a process and its children hold as their own until it ends."""
    most, is_done = 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not is_done.wait(0.02):
            most = max(most, sum(map(own_bytes, with_children([process.pid]))))

    thread = threading.Thread(target=look)
    thread.start()
    process.wait()
    is_done.set()
    thread.join()
    return most


def with_children(processes: Sequence[int]) -> list[int]:
    """These and all that they started, directly or not."""
    found: list[int] = []
    waiting = list(processes)
    while waiting:
        process = waiting.pop()
        found.append(process)
        with suppress(OSError):  # it has ended
            for task in Path(f"/proc/{process}/task").glob("*/children"):
                waiting += map(int, task.read_text().split())
    return found


def own_bytes(process: int) -> int:
    """RssAnon; 0 of a process that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
