"""A collection whose photographs are elsewhere: what was read of them stands, and the chain goes on from it.

So it is in a clone that has `dvc pull`ed, and on the machine itself while the disk with the photographs is
not there.
"""

from pathlib import Path

from pipeline.params.dataset import NEEDS_A_PATH, Dataset
from pipeline.provenance.recorded import LOCK_FILE, is_recorded


def is_absent_and_recorded(params: Dataset, source: Path, lock: Path = LOCK_FILE) -> bool:
    """Whether dvc.lock has the collection as section and source say, and nothing stands at `dataset.path`.

    An empty folder is nothing: it may be what a disk is mounted on.

    Args:
        params: section `dataset`.
        source: what stage `scan` wrote when the photographs were there.
        lock: DVC's.
    """
    if params.name not in NEEDS_A_PATH or _may_be_there(params.path or ""):
        return False
    return is_recorded("fetch", "dataset", params, source, lock)


def _may_be_there(path: str) -> bool:
    try:
        place = Path(path).expanduser()
    except RuntimeError:  # nobody's home: a wrong value, and no disk that is elsewhere
        return True
    return place.exists() and not (place.is_dir() and not any(place.iterdir()))
