"""Stage pretrain in several processes: what ends one ends all, in one line, and nothing is lost."""

import os
import shutil
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.errors import MachineError, UserError
from pipeline.params.reader import Params
from pipeline.training.distributed.joining import Seat, check_machine, joined, torchrun_seat
from tests.conftest import ROOT, change_params
from tests.processes import fails, run, run_stage, start_stage, wait_until
from tests.tiny_run import TINY, changed, striped_images

ALONE = (f"PYTHONPATH={ROOT}", "OMP_NUM_THREADS=1")


def one_thread() -> None:
    """Before a stage: for both ranks together, so that one process with one has the same kind of machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty images and the params of a run of 24 steps, each of which is saved."""
    folder = tmp_path_factory.mktemp("project")
    for number, pixels in enumerate(striped_images()):
        place = folder / "photos" / "abc"[number // 20]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.png")
    shutil.copy(ROOT / "params.yaml", folder)
    run = TINY | {"epochs": 8, "checkpoint.minutes": 1e-9, "processes": 2}
    source = {"dataset.name": "folder", "dataset.path": "photos", "dataset.image_size": 16}
    change_params(folder / "params.yaml", source | {f"pretrain.{key}": value for key, value in run.items()})
    for stage in ("scan", "weights", "fetch"):
        run_stage(stage, folder)
    return folder


def started(project: Path) -> tuple[BaseProcess, list[int]]:
    """The stage, once its ranks have saved a step anew; with the processes that it started."""
    saved = set(project.glob(".lookalike/checkpoints/*/*.pt"))
    process = start_stage("pretrain", project, project / "out", project / "err", one_thread)
    wait_until(lambda: bool(set(project.glob(".lookalike/checkpoints/*/*.pt")) - saved))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return process, [int(child) for child in children.split()]


def ended(process: BaseProcess, children: list[int], project: Path) -> tuple[int | None, str]:
    """Its exit code, and what it said; all that it started has ended too."""
    process.join(timeout=60)
    assert not any(runs(child) for child in children)
    return process.exitcode, (project / "err").read_text()


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
def test_a_killed_rank_and_ctrl_c_end_all_and_any_number_of_ranks_goes_on(project: Path) -> None:
    process, children = started(project)
    os.kill(children[-1], signal.SIGKILL)
    code, line = ended(process, children, project)
    assert code == 1
    assert line.startswith("error: process 2 of 2 was ended by SIGKILL")
    assert line.count("\n") == 1

    process, children = started(project)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    code, line = ended(process, children, project)
    assert code == 128 + signal.SIGINT
    assert line.startswith("error: interrupted in epoch")
    assert line.endswith("saved: the same command goes on from here\n")
    assert line.count("\n") == 1

    change_params(project / "params.yaml", {"pretrain.processes": 1})
    # by itself: a run is known by what its process has imported, and a forked one has imported all stages
    done = run("env", *ALONE, "python", "-m", "stages.pretrain", cwd=project)
    assert done.stdout.startswith("goes on in epoch")
    history = np.loadtxt(project / "data/pretrain/history.tsv", skiprows=1)
    assert len(history) == 9
    change_params(project / "params.yaml", {"pretrain.processes": 2})


@pytest.mark.slow
def test_a_mistake_that_the_ranks_find_is_said_once(project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    change_params(project / "params.yaml", {"pretrain.batch_size": 64, "pretrain.processes": 2})
    line = fails(2, "pretrain", cwd=project)
    assert line.startswith("params.yaml: pretrain.batch_size: 64 is more than the ")
    (project / "params.yaml").write_bytes(before)


def test_processes_that_a_batch_cannot_be_shared_by_are_refused(params: Params) -> None:
    for changes, line in (
        ({"processes": 3}, r"batch_size \(32\) must be a multiple of processes \(3\)"),
        ({"processes": 2, "compile": True}, "compile is for one process"),
    ):
        with pytest.raises(ValueError, match=line):
            changed(params, **changes)
    changed(params, processes=1, compile=True)
    with (
        pytest.raises(UserError, match=r"pretrain: batch_size \(32\) must be a multiple"),
        joined(params.pretrain, Seat(0, 3, 0, 3, "env://", 1)),
    ):
        pass


def test_each_process_needs_a_gpu(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    check_machine(changed(params, processes=2), 2)
    with pytest.raises(MachineError, match="4 processes need a GPU each, and here are 2: lower pretrain"):
        check_machine(params.pretrain, 4)
    check_machine(changed(params, device="cpu"), 4)


def test_torchrun_says_who_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert torchrun_seat() is None
    places = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    seat = torchrun_seat()
    assert seat is not None
    assert (seat.rank, seat.size, seat.local_rank, seat.local_size) == (5, 8, 1, 4)
