"""Kills short runs at random moments, starts them again, and compares their final bytes.

    python -m benchmarks.kills --kills 20

For each method a run of the stage `pretrain` on the collection in data/ (made by `dvc repro`), with small
views and two epochs, is made once undisturbed. Then it is made `--kills` times, killed with SIGKILL at a
random moment of it, and started again until it ends by itself. Printed is how many ended in the same bytes.
"""

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from models.methods import METHODS
from pipeline.recipes import lay_over, parse_setting

SETTINGS = (
    "pretrain.epochs=2",
    "pretrain.views.size=12",
    "pretrain.backbone.width=8",
    "pretrain.checkpoint.minutes=0.005",
)
COMMAND = (sys.executable, "-m", "stages.pretrain")


def start(project: Path) -> subprocess.Popen[bytes]:
    """The stage, in a folder that holds its params and images."""
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    return subprocess.Popen(COMMAND, cwd=project, env=environment, stdout=subprocess.DEVNULL)


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
    moments = random.Random(args.seed)
    params = Path("params.yaml").read_text(encoding="utf-8")
    for method in METHODS:
        with tempfile.TemporaryDirectory() as scratch:
            project = Path(scratch)
            shutil.copytree("data/images", project / "data/images")
            settings = [parse_setting(setting) for setting in (*SETTINGS, f"pretrain.method={method}")]
            (project / "params.yaml").write_text(lay_over(params, settings), encoding="utf-8")
            started = time.perf_counter()
            assert start(project).wait() == 0
            seconds = time.perf_counter() - started
            undisturbed = outputs(project)
            num_same = num_killed = 0
            for _ in range(args.kills):
                shutil.rmtree(project / "data/pretrain")
                process = start(project)
                try:
                    process.wait(moments.uniform(0, seconds))
                except subprocess.TimeoutExpired:
                    process.kill()
                num_killed += process.wait() != 0
                if not (project / "data/pretrain").exists():
                    assert start(project).wait() == 0
                num_same += outputs(project) == undisturbed
            print(
                f"{method}: {num_killed} killed in {args.kills} runs, {num_same} ended in the same bytes",
                flush=True,
            )


if __name__ == "__main__":
    main()
