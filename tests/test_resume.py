"""A run that is stopped at any moment and started again ends in the bytes of one that was never disturbed."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.errors import StoppedError, UserError
from pipeline.params.pretrain import Pretrain
from pipeline.params.reader import Params
from pipeline.training import learner
from pipeline.training.loop import TrainingRun, train
from pipeline.training.monitoring.monitor import Watch
from pipeline.training.resuming.checkpoint import Checkpoints
from tests.processes import start, wait_until
from tests.tiny_run import changed

METHODS = ("simclr", "simsiam", "nnclr")
LABELS = np.tile([0, 1, 2, -1], 20)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (80, 16, 16, 3), dtype=np.uint8)


def tiny(params: Params, method: str = "simclr", **changes: Any) -> Pretrain:
    """Three epochs of four steps of two batches, with everything that has a state."""
    return changed(
        params,
        **{
            "method": method,
            "epochs": 3,
            "batch_size": 8,
            "backbone.width": 4,
            "views.size": 16,
            "nnclr.queue_size": 20,
            "optimizer.lr": 0.05,
            "optimizer.accumulate": 2,
            "optimizer.clip_norm": 1.0,
            "optimizer.warmup_epochs": 1.0,
            "early_stopping.patience": 2,
            "monitor.bank_size": 20,
            "monitor.probe.views": "mild",
            "cuda_graph": False,  # a replay calls no function that a test could put in the way
        }
        | changes,
    )


class PowerCutError(Exception):
    """Ends a run without a word, as a power cut does."""


def dies_in_batch(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run that follows dies when it draws the views of batch `number`, from 0 (which is epoch 0's)."""
    make_views, calls = learner.make_views, iter(range(10**6))

    def views(*args: Any) -> Any:
        if next(calls) == number:
            raise PowerCutError
        return make_views(*args)

    monkeypatch.setattr(learner, "make_views", views)


def assert_equal_runs(run: TrainingRun, other: TrainingRun) -> None:
    assert json.dumps(run.history) == json.dumps(other.history)
    for name, weight in run.backbone.items():
        assert torch.equal(weight, other.backbone[name]), name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("minutes", [1e-9, 60.0], ids=["saved every step", "saved every epoch"])
def test_a_run_cut_off_and_started_again_ends_in_the_same_bytes(
    method: str,
    minutes: float,
    params: Params,
    images: NDArray[np.uint8],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_params = tiny(params, method, **{"checkpoint.minutes": minutes})
    undisturbed = train(images, LABELS, run_params)
    checkpoints = Checkpoints(tmp_path / "run")
    for batch in (3, 7, 11, 2):
        with monkeypatch.context() as patch:
            dies_in_batch(batch, patch)
            try:
                resumed = train(images, LABELS, run_params, checkpoints)
            except PowerCutError:
                continue
        break
    else:
        resumed = train(images, LABELS, run_params, checkpoints)
    assert_equal_runs(resumed, undisturbed)


def test_the_last_two_states_are_kept_and_the_last_alone_when_the_run_is_done(
    params: Params, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    checkpoints = Checkpoints(tmp_path / "run")
    train(images, LABELS, tiny(params), checkpoints)
    assert [path.name.split("-")[0] for path in sorted(checkpoints.folder.iterdir())] == [
        "0000000008",
        "0000000012",
    ]
    checkpoints.finish("ab12.dir")
    assert [path.name.split("-")[0] for path in sorted(checkpoints.folder.iterdir())] == [
        "0000000012",
        "outputs.md5",
    ]


def test_a_finished_run_is_not_trained_again_however_seldom_it_is_saved(
    params: Params, images: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_params = tiny(params, **{"checkpoint.epochs": 100})
    checkpoints = Checkpoints(tmp_path / "run")
    finished = train(images, LABELS, run_params, checkpoints)
    dies_in_batch(0, monkeypatch)
    assert_equal_runs(train(images, LABELS, run_params, checkpoints), finished)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_state_is_set_aside_and_the_one_before_it_taken(
    damage: str, params: Params, images: NDArray[np.uint8], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints(tmp_path / "run")
    undisturbed = train(images, LABELS, tiny(params), checkpoints)
    newest = checkpoints.newest()
    assert newest is not None
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"cut": content[:-1], "flipped": content, "empty": b""}[damage])
    resumed = train(images, LABELS, tiny(params), checkpoints)
    assert_equal_runs(resumed, undisturbed)
    captured = capfd.readouterr()
    assert f"checkpoint set aside, it is damaged: {newest.with_suffix('.damaged')}" in captured.err
    assert "goes on in epoch 3, after step 0 of 4" in captured.out
    newest.with_suffix(".damaged").unlink()
    for path in checkpoints.folder.iterdir():
        path.write_bytes(b"no checkpoint")
    assert_equal_runs(train(images, LABELS, tiny(params), checkpoints), undisturbed)


def test_a_loss_that_is_not_finite_is_never_saved(
    params: Params, images: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path / "run")
    make_views, calls = learner.make_views, iter(range(10**6))

    def views(*args: Any) -> Any:
        number = next(calls)  # 0 is epoch 0's, then eight an epoch
        return [view * (torch.nan if number == 12 else 1) for view in make_views(*args)]

    monkeypatch.setattr(learner, "make_views", views)
    line = r"no longer finite in epoch 2, at step 2 of 4 .*the last good checkpoint is .*/0{9}5-"
    with pytest.raises(UserError, match=line) as error:
        train(images, LABELS, tiny(params, **{"checkpoint.minutes": 1e-9}), checkpoints)
    assert str(checkpoints.newest()) in str(error.value)


def test_a_full_disk_is_said_and_the_run_goes_on(
    params: Params,
    images: NDArray[np.uint8],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def full(*_: Any) -> Iterator[Path]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.training.resuming.checkpoint.atomic_file", full)
    run = train(images, LABELS, tiny(params), Checkpoints(tmp_path / "run"))
    assert_equal_runs(run, train(images, LABELS, tiny(params)))
    assert "warning: no checkpoint saved: No space left on device" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_saves_it(
    number: signal.Signals,
    params: Params,
    images: NDArray[np.uint8],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoints = Checkpoints(tmp_path / "run")
    make_views, calls = learner.make_views, iter(range(10**6))

    def views(*args: Any) -> Any:
        if next(calls) == 5:  # the first batch of step 3
            os.kill(os.getpid(), number)
        return make_views(*args)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(learner, "make_views", views)
        with pytest.raises(StoppedError, match="interrupted in epoch 1 after step 3 of 4; saved") as error:
            train(images, LABELS, tiny(params), checkpoints)
    assert error.value.signal_number == number
    assert signal.getsignal(number) is before
    assert_equal_runs(train(images, LABELS, tiny(params), checkpoints), train(images, LABELS, tiny(params)))


def test_the_clock_counts_steps_and_neither_measuring_nor_saving(
    params: Params, images: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Watch.measure

    def slowly(watch: Any) -> Any:
        time.sleep(0.5)
        return measure(watch)

    monkeypatch.setattr(Watch, "measure", slowly)
    started = time.perf_counter()
    run = train(images, LABELS, tiny(params, epochs=1), Checkpoints(tmp_path / "run"))
    assert run.seconds < time.perf_counter() - started - 1
    assert run.views_per_s == pytest.approx(2 * 8 * 8 / run.seconds)


def train_in(folder: Path) -> None:
    """In a process of its own: the run of a folder, and its weights into it."""
    params = Pretrain.model_validate_json((folder / "params.json").read_text())
    run = train(
        np.load(folder / "images.npy"),
        LABELS,
        params,
        Checkpoints(folder / "run"),
        on_epoch=lambda _history: (folder / "begun").touch(),
    )
    np.savez(folder / "weights", **{name: weight.numpy() for name, weight in run.backbone.items()})


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_kill_9_at_random_moments_changes_no_byte(
    method: str, params: Params, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    run_params = tiny(params, method, **{"epochs": 6, "checkpoint.minutes": 1e-9, "cuda_graph": True})
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "params.json").write_text(run_params.model_dump_json())
    rng = np.random.default_rng(METHODS.index(method))
    ends = set()
    for _ in range(3):
        (tmp_path / "begun").unlink(missing_ok=True)
        process = start(train_in, tmp_path)
        wait_until((tmp_path / "begun").exists)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.join()
        ends.add(process.exitcode)
    assert -signal.SIGKILL in ends
    process = start(train_in, tmp_path)
    process.join()
    assert process.exitcode == 0
    undisturbed = train(images, LABELS, run_params)
    with np.load(tmp_path / "weights.npz") as weights:
        for name, weight in undisturbed.backbone.items():
            np.testing.assert_array_equal(weights[name], weight.numpy())
