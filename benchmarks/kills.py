"""Kills short runs at random moments, starts them again, and compares their final bytes.

    python -m benchmarks.kills --kills 20

For each method a run of the stage `pretrain` on the collection in data/ (made by `dvc repro`), with small
views and two epochs, is made once undisturbed. Then it is killed with SIGKILL at a random moment, `--kills`
times, and each time started again and left to end. Printed is how many ended in the same bytes.
"""

import argparse
import contextlib
import hashlib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from models.methods import METHODS
from pipeline.errors import UserError, plain_errors
from pipeline.recipes import lay_over, parse_setting
from stages import pretrain

SETTINGS = (
    "pretrain.epochs=2",
    "pretrain.views.size=12",
    "pretrain.backbone.width=8",
    "pretrain.checkpoint.minutes=0.005",
)


def run_stage(project: Path) -> None:
    """`pretrain` in a folder that holds its params and images, without its lines an epoch."""
    os.chdir(project)
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        pretrain.main()


def start(project: Path) -> BaseProcess:
    """The stage in a process of its own, forked from one that has imported it already and done nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stages.pretrain"])
    process = context.Process(target=run_stage, args=(project,))
    process.start()
    return process


def run_to_its_end(project: Path) -> None:
    """The stage, undisturbed."""
    process = start(project)
    process.join()
    if process.exitcode != 0:
        sys.exit(f"the stage ended with exit code {process.exitcode}")


def outputs(project: Path) -> str:
    """One hash of all that the stage wrote."""
    folder = project / "data" / "pretrain"
    parts = [path.name.encode() + path.read_bytes() for path in sorted(folder.iterdir())]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each method")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    images = Path("data/images")
    if not images.is_dir():
        raise UserError(f"{images}: no such folder: run dvc repro first")
    moments = random.Random(args.seed)
    params = Path("params.yaml").read_text(encoding="utf-8")
    for method in METHODS:
        with tempfile.TemporaryDirectory() as scratch:
            project = Path(scratch)
            shutil.copytree(images, project / images)
            settings = [parse_setting(setting) for setting in (*SETTINGS, f"pretrain.method={method}")]
            (project / "params.yaml").write_text(lay_over(params, settings), encoding="utf-8")
            started = time.perf_counter()
            run_to_its_end(project)
            seconds = time.perf_counter() - started
            undisturbed = outputs(project)
            num_killed = num_same = 0
            while num_killed < args.kills:
                # a finished run's checkpoint stays until DVC has recorded it: nothing would be left to train
                shutil.rmtree(project / ".lookalike/checkpoints")
                process = start(project)
                process.join(moments.uniform(0, seconds))
                process.kill()
                process.join()
                if process.exitcode == 0:
                    continue  # it had ended by itself
                num_killed += 1
                # what is compared is of the second start alone
                shutil.rmtree(project / "data/pretrain", ignore_errors=True)
                run_to_its_end(project)
                num_same += outputs(project) == undisturbed
            print(f"{method}: killed {num_killed} times, the same bytes {num_same} times", flush=True)


if __name__ == "__main__":
    with plain_errors():
        main()
