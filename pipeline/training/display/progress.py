"""What a person sees while a run goes on: a bar in a terminal, a line of a table an epoch everywhere."""

import math
import sys
import time
from types import TracebackType

from tqdm import tqdm

from pipeline.training.monitoring.epoch_log import Row

_SECONDS_BETWEEN_LOSSES = 0.5
_WIDTHS = {
    "epoch": 9,
    "loss": 8,
    "learning rate": 13,
    "kNN": 6,
    "probe": 6,
    "spread": 6,
    "views/s": 8,
    "time left": 9,
}


class Progress:
    """The bar of a run with loss, learning rate, views/s and time left, and above it a line an epoch.

    Args:
        num_steps: of the run.
        steps_done: of them, in an earlier sitting.
        num_epochs: of the run.
    """

    def __init__(self, num_steps: int, steps_done: int, num_epochs: int) -> None:
        # disable=None: no bar where there is no terminal
        self._bar = tqdm(total=num_steps, initial=steps_done, desc="pretrain", unit=" steps", disable=None)
        self._num_epochs = num_epochs
        self._steps_left, self._steps_here = num_steps - steps_done, 0
        self._began = self._started = self._shown = time.perf_counter()
        self._num_views = 0
        self._has_header = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def step(self, num_views: int) -> bool:
        """Counts a step; True when it is time to show its loss."""
        self._num_views += num_views
        self._steps_here += 1
        self._bar.update()
        return time.perf_counter() - self._shown > _SECONDS_BETWEEN_LOSSES

    def show(self, loss: float, lr: float) -> None:
        """Loss, learning rate and views/s in the bar."""
        self._shown = time.perf_counter()
        rate = self._num_views / (self._shown - self._started)
        self._bar.set_postfix_str(f"loss {loss:.3f}, lr {lr:.3g}, {rate:.0f} views/s")

    def show_epoch(self, row: Row, spread: float, views_per_s: float | None) -> None:
        """One line of an epoch, under one header. The views/s of the bar count from here again.

        Args:
            row: of the history; its kNN and probe are shown where there are labels, all else is left to
                `history.tsv` and the plots.
            spread: of the projections, as a share of a whole sphere's.
            views_per_s: of the steps of the epoch; None where there were none.
        """
        if not self._has_header:
            self.say("  ".join(name.rjust(width) for name, width in _WIDTHS.items()))
            self._has_header = True
        cells = {
            "epoch": f"{row['epoch']:.0f}/{self._num_epochs}",
            "loss": f"{row['loss']:.4g}",
            "learning rate": f"{row['lr']:.3g}",
            "kNN": _share(row.get("knn_top1")),
            "probe": _share(row.get("probe_top1")),
            "spread": _share(spread),
            "views/s": "-" if views_per_s is None else f"{views_per_s:,.0f}",
            "time left": self._time_left(),
        }
        self.say("  ".join(cells[name].rjust(width) for name, width in _WIDTHS.items()))
        self._num_views, self._started = 0, time.perf_counter()

    def say(self, line: str) -> None:
        """A line above the bar, at once: whoever reads a log of the run should not be an hour behind."""
        self._bar.write(line)
        sys.stdout.flush()

    def _time_left(self) -> str:
        """At the pace of this sitting, its measuring included."""
        if not self._steps_here:
            return "-"
        seconds_each = (time.perf_counter() - self._began) / self._steps_here
        return tqdm.format_interval(math.ceil(seconds_each * (self._steps_left - self._steps_here)))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
