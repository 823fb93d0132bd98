"""What a person sees while a run goes on: a bar in a terminal, a line an epoch everywhere."""

import time
from types import TracebackType

from tqdm import tqdm

Row = dict[str, float]

_SECONDS_BETWEEN_LOSSES = 0.5


class Progress:
    """The bar of a run with loss, learning rate, views/s and time left.

    Args:
        num_steps: of the run.
        steps_done: of them, in an earlier sitting.
        num_epochs: of the run.
    """

    def __init__(self, num_steps: int, steps_done: int, num_epochs: int) -> None:
        # disable=None: no bar where there is no terminal
        self._bar = tqdm(total=num_steps, initial=steps_done, desc="pretrain", unit=" steps", disable=None)
        self._num_epochs = num_epochs
        self._num_views, self._started = 0, time.perf_counter()
        self._shown = self._saved = self._started

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def step(self, num_views: int) -> bool:
        """Counts a step; True when it is time to show its loss."""
        self._num_views += num_views
        self._bar.update()
        return time.perf_counter() - self._shown > _SECONDS_BETWEEN_LOSSES

    def show(self, loss: float, lr: float) -> None:
        """Loss, learning rate and views/s in the bar."""
        self._shown = time.perf_counter()
        rate = self._num_views / (self._shown - self._started)
        self._bar.set_postfix_str(f"loss {loss:.3f}, lr {lr:.3g}, {rate:.0f} views/s")

    def show_epoch(self, row: Row) -> None:
        """One line with every figure of an epoch. The views/s count from here again."""
        figures = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
        self.say(f"epoch {row['epoch']:.0f}/{self._num_epochs}: {figures}")
        self._num_views, self._started = 0, time.perf_counter()

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._bar.write(line)

    def note_saved(self) -> None:
        """A checkpoint was written."""
        self._saved = time.perf_counter()

    @property
    def minutes_since_saved(self) -> float:
        """Since the last checkpoint, or the start."""
        return (time.perf_counter() - self._saved) / 60
