"""The runs whose checkpoints are kept: the stopped, and the finished until DVC has their outputs."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

_OUTPUTS = "outputs.md5"
_NUM_KEPT = 5  # runs: params are tried to and fro, and a run that nobody went back to by then is given up


@dataclass(frozen=True)
class KeptRun:
    """The checkpoints of one run.

    Attributes:
        folder: named by the run.
        num_bytes: on disk.
        outputs: the hash of what it wrote, as dvc.lock has it; None where it has not finished.
        saved: when it was saved last, in seconds since the epoch.
    """

    folder: Path
    num_bytes: int
    outputs: str | None
    saved: float


def kept_runs(root: Path) -> list[KeptRun]:
    """The runs in a folder of checkpoints, the one saved last first."""
    runs = []
    for folder in root.iterdir() if root.is_dir() else []:
        files = _states(folder) if folder.is_dir() else []
        if files:
            outputs = folder / _OUTPUTS
            runs.append(
                KeptRun(
                    folder=folder,
                    num_bytes=sum(file.st_size for file in files),
                    outputs=outputs.read_text(encoding="utf-8") if outputs.exists() else None,
                    saved=max(file.st_mtime for file in files),
                )
            )
    return sorted(runs, key=lambda run: run.saved, reverse=True)


def _states(folder: Path) -> list[os.stat_result]:
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a training that saves has just removed it
            found.append(path.stat())
    return found


def mark_finished(folder: Path, outputs: str) -> None:
    """Notes what a run wrote: once dvc.lock has it, its checkpoints can go."""
    folder.mkdir(parents=True, exist_ok=True)  # a run without epochs saved none
    (folder / _OUTPUTS).write_text(outputs, encoding="utf-8")


def prune(root: Path, recorded: Set[str], going_on: Path) -> list[KeptRun]:
    """Removes the checkpoints of finished runs that DVC has recorded, and of all but the last five others.

    Args:
        root: the folder of checkpoints.
        recorded: hashes of outputs, of `pipeline.provenance.recorded.recorded_outputs`.
        going_on: the folder of the run that begins now, which stays unless it has finished and is recorded.

    Returns:
        Those that were removed for being old.
    """
    others = []
    for run in kept_runs(root):
        if run.outputs in recorded:
            shutil.rmtree(run.folder)
        elif run.folder != going_on:
            others.append(run)
    for run in others[_NUM_KEPT - 1 :]:
        shutil.rmtree(run.folder)
    return others[_NUM_KEPT - 1 :]


def folder_md5(folder: Path) -> str:
    """The hash of a folder of files as DVC 3 has it: of the JSON list of their hashes and names."""
    files = [
        {
            "md5": hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest(),
            "relpath": path.relative_to(folder).as_posix(),
        }
        for path in folder.rglob("*")
        if path.is_file()
    ]
    listed = json.dumps(sorted(files, key=lambda file: file["relpath"]), sort_keys=True)
    return f"{hashlib.md5(listed.encode(), usedforsecurity=False).hexdigest()}.dir"
