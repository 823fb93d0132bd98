"""Makes a project: a folder that is a git repository with DVC, and holds nothing of this package's code."""

import errno
import importlib.util
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import MachineError, UserError, needs_training_stack
from pipeline.params.reader import PARAMS_FILE
from pipeline.recipes import DEFAULT, parse_setting, with_recipe

TEMPLATE = Path(__file__).parent / "template"
# What stands in the template under another name: in this repository git and DVC would take it for theirs.
_NAMES = {
    "gitignore": ".gitignore",
    "chain.yaml": "dvc.yaml",
    "dvc.config": ".dvc/config",
    "dvc.gitignore": ".dvc/.gitignore",
    "dvcignore": ".dvcignore",
}
_PATHS = ("dataset.path", "dataset.root", "pretrain.backbone.weights")
_MADE_LATER = "dataset.root"  # where a download goes


def new_project(folder: Path, recipe: str = DEFAULT, settings: Sequence[str] = ()) -> Path:
    """Makes the folder, or where it fails leaves what was there.

    Args:
        folder: that is to be made; it may exist if it is empty.
        recipe: that its params.yaml is set to.
        settings: `KEY=VALUE` to lay over it; paths are meant from here, and written as seen from the project.

    Returns:
        The folder, absolute.

    Raises:
        UserError: something stands there, git ignores the place, or the recipe or a setting is refused.
        MachineError: git or DVC is not installed.
    """
    if importlib.util.find_spec("dvc") is None:
        raise MachineError(needs_training_stack("dvc"))
    place = folder.resolve()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError(f"{folder}: is there already, and not an empty folder: choose another name")
    given = (TEMPLATE / PARAMS_FILE.name).read_text(encoding="utf-8")
    params = with_recipe(given, recipe, [_as_seen_from(place, setting) for setting in settings])
    with _folders(place.parent):
        is_part = _run(["git", "rev-parse", "--is-inside-work-tree"], place.parent).returncode == 0
        if is_part and _run(["git", "check-ignore", "--quiet", f"{place}/"], place.parent).returncode == 0:
            raise UserError(f"{folder}: git ignores it, and DVC with it: choose another place")
        is_made = not place.exists()
        _fill(place, params, is_part=is_part)
        try:
            _must(["git", "add", "--all", "."], place)
        except BaseException:
            _take_out(place, [file.name for file in place.iterdir()], with_folder=is_made)
            raise
    return place


def _take_out(place: Path, names: Sequence[str], *, with_folder: bool) -> None:
    for name in names:
        file = place / name
        if file.is_dir():
            shutil.rmtree(file, ignore_errors=True)
        else:
            file.unlink(missing_ok=True)
    if with_folder:
        place.rmdir()


def _fill(place: Path, params: str, *, is_part: bool) -> None:
    """Makes the files beside the place, and then moves them there."""
    partial = place.parent / f".{place.name}.{secrets.token_hex(4)}.partial"
    try:
        (partial / ".dvc").mkdir(parents=True)
        for file in sorted(TEMPLATE.iterdir()):
            shutil.copyfile(file, partial / _NAMES.get(file.name, file.name))
        (partial / PARAMS_FILE.name).write_text(params, encoding="utf-8")
        if not is_part:
            _must(["git", "init", "--quiet"], partial)
        if not place.exists():
            partial.rename(place)
            return
        moved: list[str] = []
        try:
            for file in sorted(partial.iterdir()):  # a shell may stand in it, or a disk hang there
                if (place / file.name).exists():
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place / file.name))
                moved.append(file.name)
                shutil.move(file, place / file.name)
        except BaseException:
            _take_out(place, moved, with_folder=False)
            raise
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise UserError(f"{place}: another command has just made it") from None
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _folders(folder: Path) -> Iterator[None]:
    """A folder and those above it; what was made of them goes where nothing comes of it."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for each in missing:
            with suppress(OSError):
                each.rmdir()
        raise


def _as_seen_from(project: Path, setting: str) -> str:
    """A setting whose path is meant from here, as the project has to write it.

    Raises:
        UserError: nothing is there.
    """
    ((name, whole),) = parse_setting(setting).values.items()
    if isinstance(whole, Mapping):  # -S 'dataset={name: folder, path: photos}'
        inner = [_as_seen_from(project, f"{name}.{key}={json.dumps(value)}") for key, value in whole.items()]
        values = {one.partition("=")[0].removeprefix(f"{name}."): one.partition("=")[2] for one in inner}
        return f"{name}={{{', '.join(f'{key}: {value}' for key, value in values.items())}}}"
    key, value = name, whole
    if key not in _PATHS or not isinstance(value, str) or value.startswith("~"):
        return setting
    if key != _MADE_LATER and not Path(value).exists():
        raise UserError(f"-S {key}: {value}: no such file or folder here")
    if Path(value).is_absolute():
        return setting
    return f"{key}={json.dumps(os.path.relpath(Path(value).resolve(), project))}"


def _must(command: list[str], folder: Path) -> None:
    done = _run(command, folder)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        reason = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[0])
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
