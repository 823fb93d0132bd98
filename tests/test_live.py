"""The plots of a run while it runs, and TensorBoard's files where they are asked for."""

import builtins
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.errors import MachineError
from pipeline.training.display.live import LivePlots

HISTORY = [
    {"epoch": 0.0, "loss": 5.5, "neighbor_same_class": math.nan},
    {"epoch": 1.0, "loss": 4.25, "neighbor_same_class": 0.5},
    {"epoch": 2.0, "loss": 3.0, "neighbor_same_class": 0.75},
]


def test_the_page_and_its_tables_follow_the_history(tmp_path: Path) -> None:
    with LivePlots(tmp_path / "live", tensorboard=False) as plots:
        plots.show(HISTORY[:1])
        page = (tmp_path / "live/report.html").read_text()
        assert "loss" in page
        plots.show(HISTORY)
    losses = pd.read_csv(tmp_path / "live/plots/metrics/loss.tsv", sep="\t")
    assert losses["loss"].tolist() == [5.5, 4.25, 3.0]
    assert losses["step"].tolist() == [0, 1, 2]
    shares = pd.read_csv(tmp_path / "live/plots/metrics/neighbor_same_class.tsv", sep="\t")
    assert shares["neighbor_same_class"].tolist() == [0.5, 0.75]  # what is no number is left out
    assert json.loads((tmp_path / "live/metrics.json").read_text())["loss"] == 3.0
    assert not list(tmp_path.rglob("dvc.yaml"))


def test_a_run_that_goes_on_shows_its_whole_history_once(tmp_path: Path) -> None:
    for end in (2, 3):
        with LivePlots(tmp_path / "live", tensorboard=False) as plots:
            plots.show(HISTORY[:end])
    losses = pd.read_csv(tmp_path / "live/plots/metrics/loss.tsv", sep="\t")
    assert losses["loss"].tolist() == [5.5, 4.25, 3.0]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_no_file_of_the_project_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (
        "git init --quiet",
        "dvc init --quiet",
        "git add .",
        "git -c user.name=a -c user.email=a@example.org commit --quiet -m packed",
        "git gc --quiet",
    ):
        subprocess.run(command.split(), check=True)
    with LivePlots(tmp_path / "live", tensorboard=False) as plots:
        plots.show(HISTORY)
    still_open = [descriptor.resolve() for descriptor in Path("/proc/self/fd").iterdir()]
    assert not [path for path in still_open if path.is_relative_to(tmp_path)]


def test_a_repository_without_a_commit_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("git init --quiet", "dvc init --quiet"):
        subprocess.run(command.split(), check=True)
    with LivePlots(tmp_path / "live", tensorboard=False) as plots:
        plots.show(HISTORY)
    assert (tmp_path / "live/report.html").exists()


def test_tensorboard_reads_the_event_files(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with LivePlots(tmp_path / "live", tensorboard=True) as plots:
        plots.show(HISTORY[:1])
        plots.show(HISTORY)
    events = accumulator.EventAccumulator(str(tmp_path / "live/tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 5.5), (1, 4.25), (2, 3.0)]


def test_tensorboard_that_is_not_installed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MachineError, match="TensorBoard is not installed: pip install"):
        LivePlots(tmp_path / "live", tensorboard=True)
