"""Whether a folder is DVC's: what it made, it makes again, and drops what was changed meanwhile."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

_OUTS = ("outs", "metrics", "plots")


def owner_of(folder: Path) -> Path | None:
    """The dvc.yaml, dvc.lock or *.dvc file of which this folder is an out, or lies in one; None: of none.

    Files are looked for from the folder's own place upwards, up to where `.dvc/` lies. DVC is not imported,
    and need not be installed.

    Args:
        folder: as a person names it.
    """
    absolute = Path(os.path.abspath(folder))  # noqa: PTH100 (as it is named: DVC does not follow links)
    places = {absolute, absolute.resolve()}
    above = list(absolute.parents)
    roots = [number for number, place in enumerate(above) if (place / ".dvc").is_dir()]
    for place in above[: roots[-1] + 1] if roots else []:
        for file in [place / "dvc.yaml", place / "dvc.lock", *sorted(place.glob("*.dvc"))]:
            if file.is_file() and any(_holds(out, places) for out in _outs(file)):
                return file
    return None


def _holds(out: Path, places: set[Path]) -> bool:
    return any(place == out or out in place.parents for place in places)


def _outs(file: Path) -> Iterator[Path]:
    """The outs that a file of DVC's names; of one that cannot be read none."""
    content = _read(file)
    if file.suffix == ".dvc":
        yield from _outs_of(content, file.parent / str(content.get("wdir", ".")))
        return
    # dvc.lock has no wdir: that of the stage's own entry in dvc.yaml, where its name has no @ of a loop
    definitions = _stages(_read(file.with_name("dvc.yaml")))
    for name, stage in _stages(content).items():
        definition = definitions.get(str(name).partition("@")[0])
        wdir = _inner(definition).get("wdir", ".")
        yield from _outs_of(_inner(stage), file.parent / str(wdir))


def _outs_of(entry: Mapping[str, Any], wdir: Path) -> Iterator[Path]:
    for kind in _OUTS:
        outs = entry.get(kind)
        for out in outs if isinstance(outs, list) else []:
            yield from _named(out, wdir)


def _named(out: Any, wdir: Path) -> Iterator[Path]:
    """`data/index`, `{data/index: {...}}` of dvc.yaml, or `{path: data/index, ...}` of the others."""
    names = [out]
    if isinstance(out, Mapping):
        names = [out["path"]] if "path" in out else list(out)
    for name in names:
        yield Path(os.path.normpath(wdir / str(name)))


def _inner(stage: Any) -> Mapping[str, Any]:
    """A stage's own entry; that of a loop stands one deeper."""
    if not isinstance(stage, Mapping):
        return {}
    inner = stage.get("do", stage)
    return inner if isinstance(inner, Mapping) else {}


def _stages(content: Mapping[str, Any]) -> Mapping[str, Any]:
    stages = content.get("stages")
    return stages if isinstance(stages, Mapping) else {}


def _read(file: Path) -> Mapping[str, Any]:
    try:
        content = YAML(typ="safe").load(file)
    except (OSError, YAMLError):
        return {}
    return content if isinstance(content, Mapping) else {}
