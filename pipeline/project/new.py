"""Makes a project: a folder that is a git repository with DVC, and holds nothing of this package's code."""

import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import MachineError, UserError, needs_training_stack
from pipeline.params.reader import PARAMS_FILE
from pipeline.recipes import DEFAULT, with_recipe

TEMPLATE = Path(__file__).parent / "template"
# What stands in the template under another name: in this repository git and DVC would take it for theirs.
_NAMES = {"gitignore": ".gitignore", "chain.yaml": "dvc.yaml"}
_PATH = "dataset.path="


def new_project(folder: Path, recipe: str = DEFAULT, settings: Sequence[str] = ()) -> Path:
    """Makes the folder whole or not at all.

    Args:
        folder: that is to be made; it may exist if it is empty.
        recipe: that its params.yaml is set to.
        settings: `KEY=VALUE` to lay over it; a `dataset.path` is meant from here.

    Returns:
        The folder, absolute.

    Raises:
        UserError: something stands there, or the recipe or a setting is refused.
        MachineError: git or DVC cannot be run.
    """
    if importlib.util.find_spec("dvc") is None:
        raise MachineError(needs_training_stack("dvc"))
    place = folder.absolute()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError(f"{folder}: is there already, and not an empty folder: choose another name")
    given = (TEMPLATE / PARAMS_FILE.name).read_text(encoding="utf-8")
    params = with_recipe(given, recipe, [_from_here(setting) for setting in settings])
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.parent / f".{place.name}.{secrets.token_hex(4)}.partial"
    try:
        partial.mkdir()
        for file in sorted(TEMPLATE.iterdir()):
            shutil.copyfile(file, partial / _NAMES.get(file.name, file.name))
        (partial / PARAMS_FILE.name).write_text(params, encoding="utf-8")
        is_part = _run(["git", "rev-parse", "--is-inside-work-tree"], place.parent).returncode == 0
        _begin_history(partial, is_part=is_part)
        partial.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if is_part:  # where DVC has added its files under the name that they had
        _must(["git", "rm", "-r", "--cached", "--quiet", "--ignore-unmatch", partial.name], place.parent)
    _must(["git", "add", "--all", "."], place)
    return place


def _from_here(setting: str) -> str:
    """The path of a setting as it is from any folder, where it names something that is here."""
    value = setting.removeprefix(_PATH)
    if value == setting or not Path(value).exists():
        return setting
    return f"{_PATH}{Path(value).absolute()}"


def _begin_history(folder: Path, *, is_part: bool) -> None:
    """git and DVC; DVC alone where the folder is a part of another repository."""
    if not is_part:
        _must(["git", "init", "--quiet"], folder)
    dvc = [sys.executable, "-m", "dvc"]
    _must([*dvc, "init", "--quiet", *(["--subdir"] if is_part else [])], folder)
    for key in ("core.analytics", "core.check_update"):
        _must([*dvc, "config", "--quiet", key, "false"], folder)


def _must(command: list[str], folder: Path) -> None:
    done = _run(command, folder)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise MachineError(f"{' '.join(command[-3:])}: {reason}")


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise MachineError(f"{command[0]} is not installed, or not on the PATH: a project needs it") from None
