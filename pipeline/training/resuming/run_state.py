"""All that the rest of a run depends on, which is what a checkpoint holds."""

import json
import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.training.monitoring.epoch_log import EpochLog, Row


class Stateful(Protocol):
    """A module, an optimiser, a gradient scaler."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class RunState:
    """Where a run stands, between two steps of the optimiser.

    Args:
        modules: whatever changes from step to step, by name.
        generators: of torch, by name.
        shuffle: draws the order of the images of every epoch.

    Attributes:
        epoch: the current one, from 1.
        step: steps of it that are done.
        log: what its batches gave.
        history: a row an epoch, from epoch 0.
        kept_weights: of the epoch that the run would end with now, where that need not be the last.
        hits: whether kNN had each held-out image right, at the start and after the last whole epoch, bool
            [Q] each; none where there are no labels.
        seconds: of the steps so far, over all sittings.
    """

    def __init__(
        self,
        modules: Mapping[str, Stateful],
        generators: Mapping[str, torch.Generator],
        shuffle: np.random.Generator,
    ) -> None:
        self._modules, self._generators, self._shuffle = modules, generators, shuffle
        self._before_shuffle = shuffle.bit_generator.state
        self.epoch, self.step = 1, 0
        self.log = EpochLog()
        self.history: list[Row] = []
        self.kept_weights: dict[str, Tensor] | None = None
        self.hits: dict[str, Tensor] = {}
        self.seconds = 0.0
        self._clock_started: float | None = None

    def shuffled(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The order of the current epoch; again the same after its state was loaded."""
        self._before_shuffle = self._shuffle.bit_generator.state
        return self._shuffle.permutation(rows)

    def end_epoch(self) -> None:
        """On to the next one."""
        self.epoch, self.step, self.log = self.epoch + 1, 0, EpochLog()
        self._before_shuffle = self._shuffle.bit_generator.state

    def start_clock(self) -> None:
        """From here on time counts as that of steps."""
        self._clock_started = time.perf_counter()

    def stop_clock(self) -> None:
        """Adds the time since the clock was started to `seconds`; a clock that stands adds nothing."""
        if self._clock_started is not None:
            self.seconds += time.perf_counter() - self._clock_started
        self._clock_started = None

    def state_dict(self) -> dict[str, Any]:
        """Of tensors and plain values."""
        return {
            "modules": {name: module.state_dict() for name, module in self._modules.items()},
            "generators": {name: generator.get_state() for name, generator in self._generators.items()},
            "torch": torch.get_rng_state(),
            # of this process's GPU alone: there may be another number of them when the run goes on
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "shuffle": json.dumps(self._before_shuffle),  # integers of 128 bits
            "epoch": self.epoch,
            "step": self.step,
            "log": self.log.columns(),
            "history": self.history,
            "kept_weights": self.kept_weights,
            "hits": self.hits,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts everything where it was."""
        for name, module in self._modules.items():
            module.load_state_dict(state["modules"][name])
        for name, generator in self._generators.items():
            generator.set_state(state["generators"][name])
        torch.set_rng_state(state["torch"])
        if state["cuda"] is not None:
            torch.cuda.set_rng_state(state["cuda"])
        self._shuffle.bit_generator.state = self._before_shuffle = json.loads(state["shuffle"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.log = EpochLog(state["log"])
        self.history = state["history"]
        self.kept_weights, self.hits = state["kept_weights"], state["hits"]
        self.seconds = state["seconds"]
