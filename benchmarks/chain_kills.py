"""Kills `dvc repro` at random moments of fetch, embed, index and evaluate, and compares what the next makes.

    python -m benchmarks.chain_kills --kills 20

In a clone of this project the chain runs once with small params. Then, for each stage in turn, one of its own
params is changed and `dvc repro` is started and killed with SIGKILL, with all that it started, at a random
moment of that stage's work, from when it takes the lock of its output until it gives it back; the
next `dvc repro` must end in the dvc.lock of one that nobody killed. Nothing is taken from DVC's
run cache. Printed is a line a stage.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.atomic import writer
from pipeline.errors import plain_errors
from pipeline.recipes import lay_over, parse_setting

SMALL = (
    "pretrain.epochs=1",
    "pretrain.views.size=16",
    "evaluate.linear.max_iterations=20",
    "evaluate.linear.few_label_seeds=[0, 1]",
)
# A param of the stage's own, and another value, that changes what it writes.
CHANGES = {
    "fetch": "dataset.seed=1",
    "embed": "embed.batch_size=255",
    "index": "index.factory=IVF64,Flat",
    "evaluate": "evaluate.knn.k=9",
}
# What it takes the lock of when it begins to write.
LOCKED = {
    "fetch": "data/images",
    "embed": "data/embeddings",
    "index": "data/index",
    "evaluate": "data/metrics/evaluate.json",
}


def repro(project: Path, stage: str) -> subprocess.Popen[bytes]:
    """`dvc repro` up to a stage, under way in a process group of its own."""
    return subprocess.Popen(
        ["dvc", "repro", "--no-run-cache", stage],
        cwd=project,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def repro_to_its_end(project: Path, stage: str) -> str:
    """The dvc.lock that it leaves."""
    if repro(project, stage).wait() != 0:
        sys.exit(f"dvc repro {stage} failed in {project}")
    return (project / "dvc.lock").read_text(encoding="utf-8")


def wait_for_work(process: subprocess.Popen[bytes], project: Path, stage: str) -> bool:
    """Waits until the stage is at its output; False where `dvc repro` has ended before that was seen."""
    while process.poll() is None:
        if writer(project / LOCKED[stage]) is not None:
            return True
        time.sleep(0.002)
    return False


def seconds_of_work(project: Path, stage: str) -> float:
    """From when the stage takes its lock until it gives it back, in a `dvc repro` that goes to its end."""
    process = repro(project, stage)
    wait_for_work(process, project, stage)
    started = time.perf_counter()
    while writer(project / LOCKED[stage]) is not None:
        time.sleep(0.002)
    seconds = time.perf_counter() - started
    if process.wait() != 0:
        sys.exit(f"dvc repro {stage} failed in {project}")
    return seconds


def copy_of(project: Path, folder: Path) -> Path:
    """The project with its outputs and DVC's cache, in another folder."""
    shutil.copytree(project, folder, symlinks=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="over all four stages")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        subprocess.run(["git", "clone", "--quiet", ".", whole], check=True)
        params = lay_over((whole / "params.yaml").read_text(encoding="utf-8"), map(parse_setting, SMALL))
        (whole / "params.yaml").write_text(params, encoding="utf-8")
        repro_to_its_end(whole, "evaluate")
        for number, (stage, setting) in enumerate(CHANGES.items()):
            changed = lay_over(params, [parse_setting(setting)])
            project = copy_of(whole, Path(scratch) / "undisturbed")
            (project / "params.yaml").write_text(changed, encoding="utf-8")
            seconds = seconds_of_work(project, stage)
            undisturbed = (project / "dvc.lock").read_text(encoding="utf-8")
            shutil.rmtree(project)
            num_kills = args.kills // len(CHANGES) + (number < args.kills % len(CHANGES))
            num_killed = num_same = 0
            while num_killed < num_kills:
                project = copy_of(whole, Path(scratch) / "killed")
                (project / "params.yaml").write_text(changed, encoding="utf-8")
                process = repro(project, stage)
                is_at_work = wait_for_work(process, project, stage)
                time.sleep(moments.uniform(0, seconds))
                if is_at_work and process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    num_killed += 1
                    num_same += repro_to_its_end(project, stage) == undisturbed
                process.wait()
                shutil.rmtree(project)
            print(
                f"{stage}: killed {num_killed} times within {seconds:.2f} s of work, the same dvc.lock "
                f"{num_same} times",
                flush=True,
            )


if __name__ == "__main__":
    with plain_errors():
        main()
