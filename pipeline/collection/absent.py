"""A collection whose photographs are elsewhere: what was read of them stands, and the chain goes on from it.

So it is in a clone that has `dvc pull`ed, and on the machine itself while the disk with the photographs is
not there.
"""

import hashlib
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.params.dataset import NEEDS_A_PATH, Dataset


def is_absent_and_recorded(params: Dataset, source: Path, lock: Path = Path("dvc.lock")) -> bool:
    """Whether dvc.lock has the collection as section and source say, and nothing stands at `dataset.path`.

    An empty folder is nothing: it may be what a disk is mounted on.

    Args:
        params: section `dataset`.
        source: what stage `scan` wrote when the photographs were there.
        lock: DVC's.
    """
    if params.name not in NEEDS_A_PATH or _may_be_there(params.path or "") or not source.exists():
        return False
    fetch = _stage(lock, "fetch")
    deps = {dep.get("path"): dep.get("md5") for dep in fetch.get("deps", [])}
    md5 = hashlib.md5(source.read_bytes(), usedforsecurity=False).hexdigest()
    recorded = fetch.get("params", {}).get("params.yaml", {}).get("dataset")
    return bool(deps.get(source.as_posix()) == md5 and recorded == params.model_dump())


def _may_be_there(path: str) -> bool:
    try:
        place = Path(path).expanduser()
    except RuntimeError:  # nobody's home: a wrong value, and no disk that is elsewhere
        return True
    return place.exists() and not (place.is_dir() and not any(place.iterdir()))


def _stage(lock: Path, name: str) -> dict[str, Any]:
    try:
        stage = YAML(typ="safe").load(lock)["stages"][name]
    except (OSError, YAMLError, KeyError, TypeError):
        return {}
    return stage if isinstance(stage, dict) else {}
