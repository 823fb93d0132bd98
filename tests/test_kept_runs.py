"""A training that was paid for is not lost: not to Ctrl-C, not to an edit, not to a DVC that died."""

import os
import signal
from pathlib import Path

import pytest

from pipeline.provenance.recorded import recorded_outputs
from pipeline.training.resuming.kept_runs import folder_md5, kept_runs, mark_finished, prune
from tests.conftest import change_params
from tests.processes import fails, run_stage, start_stage, use_every_core, wait_until

LIVE = Path(".lookalike/live")


def begun(root: Path, name: str, saved: float, outputs: str | None = None) -> Path:
    """A run's folder with a state of 100 bytes, saved at that time."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "0000000008-ab.pt").write_bytes(bytes(100))
    if outputs is not None:
        mark_finished(folder, outputs)
    for path in folder.iterdir():
        os.utime(path, (saved, saved))
    return folder


def test_the_last_five_runs_stay_whatever_became_of_them(tmp_path: Path) -> None:
    folders = [begun(tmp_path, f"run{number}", saved=number, outputs="1.dir") for number in range(7)]
    removed = prune(tmp_path, recorded=set(), going_on=tmp_path / "now")
    # with the one that begins now they are five
    assert [run.folder for run in removed] == folders[2::-1]
    assert [run.folder for run in kept_runs(tmp_path)] == folders[:2:-1]


def test_the_run_that_goes_on_is_kept_however_old_it_is(tmp_path: Path) -> None:
    folders = [begun(tmp_path, f"run{number}", saved=number) for number in range(7)]
    prune(tmp_path, recorded=set(), going_on=folders[0])
    assert [run.folder for run in kept_runs(tmp_path)] == [*folders[6:2:-1], folders[0]]


def test_a_finished_run_goes_when_its_outputs_are_recorded_and_not_before(tmp_path: Path) -> None:
    done = begun(tmp_path, "done", saved=1, outputs="ab.dir")
    stopped = begun(tmp_path, "stopped", saved=2)
    assert prune(tmp_path, recorded={"cd.dir"}, going_on=stopped) == []
    assert done.exists()
    assert prune(tmp_path, recorded={"ab.dir"}, going_on=stopped) == []  # not for being old
    assert [run.folder for run in kept_runs(tmp_path)] == [stopped]


def test_a_run_that_is_forced_again_begins_anew(tmp_path: Path) -> None:
    done = begun(tmp_path, "done", saved=1, outputs="ab.dir")
    prune(tmp_path, recorded={"ab.dir"}, going_on=done)
    assert not done.exists()


def test_the_size_of_a_run_is_that_of_its_files(tmp_path: Path) -> None:
    begun(tmp_path, "done", saved=1, outputs="ab.dir")
    (run,) = kept_runs(tmp_path)
    assert (run.num_bytes, run.outputs, run.saved) == (106, "ab.dir", 1)


def test_without_checkpoints_there_is_nothing_to_prune(tmp_path: Path) -> None:
    assert prune(tmp_path / "none", recorded=set(), going_on=tmp_path) == []


@pytest.mark.parametrize("lock", [None, "", "[", "stages: 3", "stages: {pretrain: null}"])
def test_a_lock_that_cannot_be_read_records_nothing(tmp_path: Path, lock: str | None) -> None:
    if lock is not None:
        (tmp_path / "dvc.lock").write_text(lock)
    assert recorded_outputs(tmp_path / "dvc.lock") == set()


@pytest.mark.slow
def test_the_hash_of_a_folder_is_dvcs_own(small_chain: Path) -> None:
    recorded = recorded_outputs(small_chain / "dvc.lock")
    for folder in ("pretrain", "embeddings", "images"):  # of files, of files and a folder
        assert folder_md5(small_chain / "data" / folder) in recorded


@pytest.mark.slow
def test_a_chain_that_went_through_leaves_one_state_which_the_next_start_removes(small_chain: Path) -> None:
    (run,) = kept_runs(small_chain / ".lookalike/checkpoints")
    assert run.outputs == folder_md5(small_chain / "data/pretrain")
    assert len(list(run.folder.glob("*.pt"))) == 1
    assert run.outputs in recorded_outputs(small_chain / "dvc.lock")


@pytest.mark.slow
def test_the_stage_goes_on_after_ctrl_c_and_a_second_time_trains_nothing(
    small_chain: Path, chain_copy: Path
) -> None:
    printed, said = chain_copy / "stdout", chain_copy / "stderr"
    process = start_stage("pretrain", chain_copy, printed, said, before=use_every_core)
    try:
        wait_until(lambda: printed.exists() and len(printed.read_text().splitlines()) == 2)
    except AssertionError:
        process.kill()
        raise
    header, first = printed.read_text().splitlines()
    assert header.split()[:2] == ["epoch", "loss"]
    assert first.split()[0] == "0/1"
    second = fails(1, "pretrain", cwd=chain_copy)
    assert second.startswith(f"data/pretrain: process {process.pid} is writing it: wait until it ends")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 128 + signal.SIGINT
    assert "; saved: the same command goes on from here" in said.read_text().splitlines()[-1]
    assert "goes on in epoch 1, after step" in run_stage("pretrain", chain_copy, before=use_every_core).stdout
    for name in ("data/pretrain/backbone.safetensors", "data/pretrain/history.tsv", LIVE / "views.png"):
        assert (chain_copy / name).read_bytes() == (small_chain / name).read_bytes(), name
    assert "knn_top1" in (chain_copy / LIVE / "report.html").read_text()

    # a run without epochs saves nothing: it is not told that it has a checkpoint of its own kind
    change_params(chain_copy / "params.yaml", {"pretrain.epochs": 0, "pretrain.optimizer.warmup_epochs": 0.0})
    for _ in range(2):
        assert "begins anew" not in run_stage("pretrain", chain_copy, before=use_every_core).stdout
    change_params(chain_copy / "params.yaml", {"pretrain.epochs": 1, "pretrain.optimizer.warmup_epochs": 1})

    # DVC died before it had the outputs: it runs the stage again, and its start has deleted nothing
    again = run_stage("pretrain", chain_copy, before=use_every_core)
    assert "had finished: nothing is left to train" in again.stdout
    name = "data/pretrain/backbone.safetensors"
    assert (chain_copy / name).read_bytes() == (small_chain / name).read_bytes()
