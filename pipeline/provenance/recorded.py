"""What dvc.lock has recorded: which outputs are safe in the cache, and what a stage ran with."""

import hashlib
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.params.section import Section

LOCK_FILE = Path("dvc.lock")


def recorded_outputs(lock: Path = LOCK_FILE) -> set[str]:
    """The hashes of all outputs that dvc.lock names: DVC writes it when it has them in its cache."""
    try:
        return {
            out["md5"] for stage in _stages(lock).values() for out in stage.get("outs", []) if "md5" in out
        }
    except (TypeError, AttributeError):
        return set()  # none is known to be recorded


def is_recorded(stage: str, section: str, values: Section, dep: Path, lock: Path = LOCK_FILE) -> bool:
    """Whether a stage ran with just these params and just this file, as dvc.lock has it.

    Args:
        stage: its name.
        section: of params.yaml, which it tracks.
        values: of that section now.
        dep: a small file that it depends on; False where it does not exist.
        lock: DVC's.
    """
    recorded = _stages(lock).get(stage)
    if not isinstance(recorded, dict) or not dep.exists():
        return False
    hashes = {each.get("path"): each.get("md5") for each in recorded.get("deps", [])}
    md5 = hashlib.md5(dep.read_bytes(), usedforsecurity=False).hexdigest()
    params = recorded.get("params", {}).get("params.yaml", {}).get(section)
    return bool(hashes.get(dep.as_posix()) == md5 and params == values.model_dump(mode="json"))


def _stages(lock: Path) -> dict[str, Any]:
    try:
        stages = YAML(typ="safe").load(lock)["stages"]
    except (OSError, YAMLError, KeyError, TypeError):
        return {}
    return stages if isinstance(stages, dict) else {}
