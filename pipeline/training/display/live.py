"""A run's curves while it runs: DVCLive's page of plots and, where asked for, TensorBoard's event files."""

import math
import shutil
from pathlib import Path
from types import TracebackType

from dvclive.live import Live

from pipeline.errors import MachineError
from pipeline.training.monitoring.epoch_log import Row


class _PlotsAlone(Live):
    """DVCLive without the project's repository.

    It would open that, leave its files open, and stop the run where nothing is committed yet.
    """

    def _init_dvc(self) -> None:
        pass


class LivePlots:
    """Takes the rows of a history as they come and keeps `report.html` in a folder up to date.

    What an earlier run left in the folder is removed.

    Args:
        folder: of this run's plots; outside the chain's outputs, since they hold times.
        tensorboard: whether to write event files too, to `folder / "tensorboard"`.

    Raises:
        MachineError: TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, *, tensorboard: bool) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self._num_rows = 0
        self._writer = None
        if tensorboard:
            try:
                from torch.utils.tensorboard.writer import SummaryWriter
            except ImportError:
                raise MachineError(
                    "pretrain.tensorboard is true, but TensorBoard is not installed: "
                    "pip install -c constraints.txt tensorboard"
                ) from None
            self._writer = SummaryWriter(str(folder / "tensorboard"))
        self._live = _PlotsAlone(str(folder), report="html", save_dvc_exp=False, dvcyaml=None)

    def __enter__(self) -> "LivePlots":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def show(self, history: list[Row]) -> None:
        """Adds the rows that are new; a figure that is not finite is left out."""
        for row in history[self._num_rows :]:
            self._live.step = epoch = int(row["epoch"])
            for name, value in row.items():
                if name == "epoch" or not math.isfinite(value):
                    continue
                self._live.log_metric(name, value)
                if self._writer is not None:
                    self._writer.add_scalar(name, value, epoch)
        self._num_rows = len(history)
        self._live.make_summary()  # type: ignore[no-untyped-call]
        self._live.make_report()  # type: ignore[no-untyped-call]
        if self._writer is not None:
            self._writer.flush()
