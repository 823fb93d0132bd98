"""The name of a run: another for whatever changes its bytes, the same for what does not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.params.reader import Params
from pipeline.training.resuming import run_key as module
from pipeline.training.resuming.run_key import run_key
from tests.tiny_run import changed

COLLECTION = {"name": "mnist5k", "sha256": "ab"}
LABELS = np.arange(6)


def test_params_images_and_labels_are_part_of_the_name(params: Params) -> None:
    pretrain = params.pretrain
    names = {
        run_key(pretrain, COLLECTION, LABELS, None),
        run_key(changed(params, seed=1), COLLECTION, LABELS, None),
        run_key(changed(params, **{"views.crop.p": 0.5}), COLLECTION, LABELS, None),
        run_key(pretrain, COLLECTION | {"sha256": "cd"}, LABELS, None),
        run_key(pretrain, COLLECTION, LABELS[::-1].copy(), None),
    }
    assert len(names) == 5
    assert run_key(pretrain, dict(COLLECTION), LABELS.copy(), None) in names


@pytest.mark.parametrize(
    "changes",
    [{"checkpoint.minutes": 1.0, "checkpoint.epochs": 9}, {"tensorboard": True}, {"processes": 2}],
)
def test_how_often_a_run_is_saved_and_shown_and_by_how_many_is_not(
    params: Params, changes: dict[str, Any]
) -> None:
    expected = run_key(params.pretrain, COLLECTION, LABELS, None)
    assert run_key(changed(params, **changes), COLLECTION, LABELS, None) == expected


@pytest.mark.parametrize(
    ("name", "is_part"),
    [
        ("pipeline/errors.py", False),
        ("pipeline/training/guards.py", False),
        ("pipeline/training/display/progress.py", False),
        ("pipeline/training/resuming/interrupts.py", False),
        ("pipeline/params/evaluate.py", False),
        ("pipeline/params/pretrain_views.py", True),
        ("pipeline/training/learner.py", True),
        ("pipeline/training/resuming/checkpoint.py", True),
        ("pipeline/evaluation/knn.py", True),
        ("models/simclr.py", True),
    ],
)
def test_a_word_in_what_only_speaks_keeps_the_name_and_changed_code_does_not(
    name: str, is_part: bool, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stages.pretrain  # noqa: F401  # what the stage has imported when it asks for the name

    loaded = module.loaded_code()
    assert name in loaded
    before = run_key(params.pretrain, COLLECTION, LABELS, None)
    (tmp_path / "edited.py").write_bytes(loaded[name].read_bytes() + b"# another word")
    monkeypatch.setattr(module, "loaded_code", lambda: loaded | {name: tmp_path / "edited.py"})
    assert (run_key(params.pretrain, COLLECTION, LABELS, None) != before) == is_part
