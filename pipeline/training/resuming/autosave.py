"""When a run is saved: every so many epochs, and within one every so many minutes."""

import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from pipeline.params.pretrain import Checkpoint
from pipeline.training.finite import check_finite
from pipeline.training.plan import Plan
from pipeline.training.resuming.checkpoint import Checkpoints
from pipeline.training.resuming.run_state import RunState


class Autosave:
    """Saves a run's state as often as its params say; without checkpoints it saves nothing.

    Args:
        checkpoints: of the run, or None.
        state: what is saved, and what a checkpoint is loaded into.
        plan: of the run.
        params: how often.
    """

    def __init__(
        self, checkpoints: Checkpoints | None, state: RunState, plan: Plan, params: Checkpoint
    ) -> None:
        self._checkpoints, self._state, self._plan, self._params = checkpoints, state, plan, params
        self.start_clock()

    def load(self) -> bool:
        """Puts the state where the newest checkpoint has it; False where there is none."""
        return self._checkpoints is not None and self._checkpoints.load(self._state.load_state_dict)

    def start_clock(self) -> None:
        """From here on count the minutes after which a run is saved within an epoch."""
        self._saved = time.perf_counter()

    def check(self) -> None:
        """Holds that the state is good; this waits for the device.

        Raises:
            UserError: the loss is no longer finite.
        """
        losses = self._state.log.columns().get("loss", torch.zeros(1))
        check_finite(losses, self._state.epoch, self._plan, self._newest)

    @property
    def is_due(self) -> bool:
        """Whether the last time within an epoch is long enough ago."""
        return self._checkpoints is not None and time.perf_counter() - self._saved > 60 * self._params.minutes

    def save_within_epoch(self) -> None:
        """Saves; the clock of the steps stands meanwhile."""
        self.check()  # before the clock is stopped: the steps that it waits for count
        self._state.stop_clock()
        self.save()
        self._state.start_clock()

    def after_epoch(self, *, is_last: bool) -> None:
        """Saves where so many epochs are done, and at the end, so that a finished run is not trained
        again. One that broke down begins again at its last checkpoint."""
        is_due = is_last or (self._state.epoch - 1) % self._params.epochs == 0
        if self._checkpoints is not None and is_due:
            self.save()

    def save(self) -> bool:
        """Saves the state, if it is good. A disk that is full is said (False), and the run goes on.

        Raises:
            UserError: the loss is no longer finite.
        """
        assert self._checkpoints is not None
        self.check()
        state = self._state
        try:
            self._checkpoints.save(state.state_dict(), self._plan.steps_before(state.epoch, state.step))
        except OSError as error:
            tqdm.write(f"warning: no checkpoint saved: {error.strerror or error}", file=sys.stderr)
            return False
        finally:
            self.start_clock()
        return True

    def _newest(self) -> Path | None:
        return None if self._checkpoints is None else self._checkpoints.newest()
