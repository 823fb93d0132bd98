"""Which epoch a run ends with: the last, the lowest loss, or the best held-out kNN, the start among them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.params.pretrain import Pretrain
from pipeline.training.loop import train
from pipeline.training.monitoring.monitor import Measured, Watch
from pipeline.training.resuming.checkpoint import Checkpoints
from pipeline.training.weights.keeping import kept_epoch
from tests.tiny_run import LABELS, changed_run

HISTORY = [
    {"epoch": 0, "loss": 9.0, "knn_top1": 0.5},
    {"epoch": 1, "loss": 3.0, "knn_top1": 0.7},
    {"epoch": 2, "loss": 2.0, "knn_top1": 0.7},
    {"epoch": 3, "loss": 4.0, "knn_top1": 0.6},
]
UNLABELLED = [{name: row[name] for name in ("epoch", "loss")} for row in HISTORY]


@pytest.fixture
def tiny(tiny: Pretrain) -> Pretrain:
    """With as many images held out, 30, as it takes to choose an epoch by them."""
    return changed_run(tiny, **{"monitor.holdout_fraction": 0.5, "batch_size": 8})


@pytest.mark.parametrize(
    ("keep", "patience", "history", "expected"),
    [
        ("last", None, HISTORY, 3),
        ("best", None, HISTORY, 1),  # of equals the first
        ("last", 5, HISTORY, 2),
        ("best", 5, HISTORY, 1),
        ("best", None, UNLABELLED, 3),
        ("best", 5, UNLABELLED, 2),
        ("best", None, HISTORY[:1], 0),
        ("last", 5, HISTORY[:1], 0),
        ("best", None, [HISTORY[1], HISTORY[0]], 0),
    ],
)
def test_the_kept_epoch_is_read_off_the_history(
    tiny: Pretrain,
    keep: str,
    patience: int | None,
    history: list[dict[str, float]],
    expected: int,
) -> None:
    chosen = changed_run(tiny, **{"keep": keep, "early_stopping.patience": patience})
    by_labels = keep == "best" and history is not UNLABELLED
    assert kept_epoch(history, chosen, best=by_labels) == expected


def test_the_best_epoch_is_what_a_run_of_so_many_epochs_ends_with(
    tiny: Pretrain,
    images: NDArray[np.uint8],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = iter([0.5, 0.4, 0.9, 0.7])
    monkeypatch.setattr(Watch, "measure", lambda _: Measured({"knn_top1": next(seen)}, np.array([True])))
    constant = {"optimizer.schedule": "constant", "optimizer.warmup_epochs": 0.0}
    run = train(images, LABELS, changed_run(tiny, **constant, epochs=3, keep="best"))
    assert run.kept_epoch == 2
    assert "kept: epoch 2, whose held-out kNN is 0.900, the best" in capsys.readouterr().out
    monkeypatch.undo()
    shorter = train(images, LABELS, changed_run(tiny, **constant, epochs=2))
    assert all(torch.equal(weight, shorter.backbone[name]) for name, weight in run.backbone.items())


def test_an_absurd_rate_keeps_the_start(
    tiny: Pretrain,
    images: NDArray[np.uint8],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UserError, match="the loss is no longer finite in epoch 1"):
        train(images, LABELS, changed_run(tiny, **{"optimizer.lr": 1e30}))
    run = train(images, LABELS, changed_run(tiny, **{"optimizer.lr": 1e30, "keep": "best"}))
    assert run.kept_epoch == 0
    assert all(torch.equal(weight, run.start[name]) for name, weight in run.backbone.items())
    assert len(run.history) == 1
    printed = capsys.readouterr().out
    assert "warning: the loss is no longer finite in epoch 1, at step 2 of 3" in printed
    assert "the training ends with the best epoch so far" in printed
    assert "kept: the start, whose held-out kNN is" in printed
    assert run.gain is not None
    assert (run.gain.value, run.gain.low, run.gain.high) == (0, 0, 0)


def test_where_every_labelled_image_is_held_out_nothing_is_chosen(
    images: NDArray[np.uint8], tiny: Pretrain, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is nothing to look among, and so no kNN: a run with `best` ended in a KeyError."""
    labels = np.where(np.arange(len(LABELS)) % 2, LABELS, -1)
    run = train(images, labels, changed_run(tiny, **{"monitor.holdout_fraction": 0.99, "keep": "best"}))
    assert run.kept_epoch == tiny.epochs
    assert "keep is best, but every labelled image is held out" in capsys.readouterr().out


def test_without_labels_the_last_is_kept_and_it_is_said(
    tiny: Pretrain,
    images: NDArray[np.uint8],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = train(images, np.full(len(images), -1), changed_run(tiny, keep="best"))
    assert run.kept_epoch == tiny.epochs
    assert run.gain is None
    said = f"keep is best, but no image has a label: epoch {tiny.epochs} is kept; effective rank"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (np.zeros(60, dtype=np.int64), "the held-out images are all of one class"),
        (
            np.where(np.arange(60) < 40, LABELS, -1),
            "of 20 held-out images (fewer than 30) chance would choose",
        ),
    ],
)
def test_where_chance_would_choose_the_last_is_kept_and_it_is_said(
    tiny: Pretrain,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = train(images, labels, changed_run(tiny, keep="best"))
    assert run.kept_epoch == tiny.epochs
    assert f"keep is best, but {why}: epoch {tiny.epochs} is kept" in capsys.readouterr().out


def test_a_run_that_goes_on_keeps_the_same_epoch(
    tiny: Pretrain,
    images: NDArray[np.uint8],
    tmp_path: Path,
) -> None:
    constant = {"optimizer.schedule": "constant", "optimizer.warmup_epochs": 0.0, "optimizer.lr": 0.5}
    chosen = changed_run(tiny, **constant, epochs=4, keep="best")
    whole = train(images, LABELS, chosen)

    class Killed(Exception):  # noqa: N818
        pass

    def kill(history: list[dict[str, float]]) -> None:
        if len(history) == 4:
            raise Killed

    with pytest.raises(Killed):
        train(images, LABELS, chosen, Checkpoints(tmp_path), kill)
    resumed = train(images, LABELS, chosen, Checkpoints(tmp_path))
    assert resumed.kept_epoch == whole.kept_epoch
    assert resumed.gain == whole.gain
    assert all(torch.equal(weight, whole.backbone[name]) for name, weight in resumed.backbone.items())


def test_the_gain_is_that_of_the_last_epoch_over_the_start(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    run = train(images, LABELS, changed_run(tiny, **{"monitor.holdout_fraction": 0.5}))
    assert run.gain is not None
    assert run.gain.value == pytest.approx(run.history[-1]["knn_top1"] - run.history[0]["knn_top1"])
    assert run.gain.low <= run.gain.value <= run.gain.high
