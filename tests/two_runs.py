"""Runs for tests of `lookalike compare`: the two tables of each, and nothing else of a chain."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

OUTCOMES = "evaluation/outcomes.parquet"
MANIFEST = "images/manifest.parquet"
_NUM_TRAIN = 10


def names(num_images: int) -> list[str]:
    """As many different sha256."""
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(num_images)]


def write_run(
    data: Path,
    answers: Mapping[str, Sequence[bool]],
    *,
    sha256: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    num_train: int = _NUM_TRAIN,
) -> Path:
    """Writes what `compare` reads of a run, as stages `fetch` and `evaluate` do.

    Args:
        data: the folder of outputs.
        answers: protocol -> whether each test image was right.
        sha256: of the test images.
        classes: of the test images.
        num_train: training images, whose ids come first.
    """
    num_test = len(next(iter(answers.values()), sha256 or ()))
    classes = classes if classes is not None else ["cat"] * num_test
    labels = np.unique(np.array(classes, dtype=object), return_inverse=True)[1]
    manifest = pd.DataFrame(
        {
            "id": np.arange(num_train + num_test),
            "split": ["train"] * num_train + ["test"] * num_test,
            "label": [0] * num_train + labels.tolist(),
            "class_name": ["cat"] * num_train + list(classes),
            "sha256": [f"train{row}" for row in range(num_train)] + list(sha256 or names(num_test)),
        }
    )
    ids = np.arange(num_train, num_train + num_test)
    parts = [
        pd.DataFrame({"id": ids, "subject": subject, "protocol": protocol, "predicted": 0, "correct": right})
        for subject, of in (("encoder", answers), ("pixels", {"knn": [True] * num_test}))
        for protocol, right in of.items()
    ]
    outcomes = pd.concat(parts).astype({"subject": "category", "protocol": "category", "correct": bool})
    for table, path in ((manifest, MANIFEST), (outcomes, OUTCOMES)):
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(data / path, index=False)
    return data


def right(num_images: int, *, wrong: Sequence[int] = ()) -> list[bool]:
    """All right but for these."""
    return [row not in wrong for row in range(num_images)]


def write_two(folder: Path) -> None:
    """Run `a` has 30 of 200 wrong, `b` the last ten of these."""
    write_run(folder / "a", {"knn": right(200, wrong=range(30)), "linear": right(200, wrong=range(5))})
    write_run(folder / "b", {"knn": right(200, wrong=range(20, 30)), "linear": right(200, wrong=range(6))})


def changed(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Puts another table in the place of one."""
    change(pd.read_parquet(path)).to_parquet(path, index=False)
