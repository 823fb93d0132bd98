"""A run: what it is while it is under way, and what it leaves."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.weights import weights_on_cpu
from pipeline.errors import NotFiniteError, StoppedError
from pipeline.evaluation.intervals import Interval, paired_gain
from pipeline.params.pretrain import Pretrain
from pipeline.training.batches import Batches, Rows
from pipeline.training.display.progress import Progress
from pipeline.training.distributed.world import World
from pipeline.training.guards import check_collapse, sphere_share
from pipeline.training.learner import Learner
from pipeline.training.monitoring.epoch_log import EpochLog, Row
from pipeline.training.monitoring.monitor import Watch
from pipeline.training.pixels import Images, PixelStatistics
from pipeline.training.plan import Plan
from pipeline.training.resuming.autosave import Autosave
from pipeline.training.resuming.checkpoint import Checkpoints
from pipeline.training.resuming.interrupts import Interrupts
from pipeline.training.resuming.run_state import RunState
from pipeline.training.weights.keeping import kept_epoch, lowest_loss


@dataclass(frozen=True)
class TrainingRun:
    """What a run leaves.

    Attributes:
        backbone: the trained weights, on the CPU; under `CENTER` the mean direction of their features, [D],
            where that is taken off.
        start: those before the first step, random or pretrained, with their own mean likewise: what a run
            without epochs leaves.
        feature_dim: what the backbone gives.
        statistics: of the pixels; the encoder normalises with them.
        history: a row an epoch, from epoch 0, the start.
        kept_epoch: that the backbone is of.
        gain: of the held-out kNN, the last epoch's over the start's; None where no label watched it.
        device: that the run was on.
        precision: of the forward pass.
        seconds: of the training steps alone.
        views_per_s: in those.
    """

    backbone: dict[str, Tensor]
    start: dict[str, Tensor]
    feature_dim: int
    statistics: PixelStatistics
    history: list[Row]
    kept_epoch: int
    gain: Interval | None
    device: str
    precision: str
    seconds: float
    views_per_s: float


class RunUnderWay:
    """What learns, what watches it, and where it stands; the arguments are those of `loop.train`."""

    def __init__(
        self,
        images: Images,
        labels: NDArray[np.int64],
        params: Pretrain,
        checkpoints: Checkpoints | None,
        on_epoch: Callable[[list[Row]], None],
        world: World,
    ) -> None:
        self._params, self._labels, self._on_epoch, self._world = params, labels, on_epoch, world
        self._learner = learner = Learner(images, params, world)
        self._start = weights_on_cpu(learner.backbone.module)
        self._watch = Watch(images, labels, learner.backbone, learner.mean, learner.std, params, world)
        num_images = len(self._watch.train_rows)
        learner.check_collection(num_images)
        self.plan = Plan(params, num_images)
        self._batches = Batches(images, learner.device, world)
        self._state = RunState(
            modules={**learner.modules, **self._watch.modules},
            generators={**learner.generators, "probe": self._watch.generator},
            shuffle=np.random.default_rng(params.seed),
        )
        self.autosave = Autosave(checkpoints, self._state, self.plan, params.checkpoint)
        self._views_per_s: float | None = None
        self._broke_down = False

    def begin(self) -> bool:
        """Goes on from the newest checkpoint (True), or measures the start as epoch 0."""
        goes_on = self.autosave.load()
        if not goes_on:
            ((rows, batch),) = self._batches.read([self._watch.train_rows[: self._params.batch_size]])
            log = EpochLog()
            log.add(self._learner.look_at(batch, self._labels_of(rows)))
            self._measure(log.row(epoch=0, lr=0.0))
        self._on_epoch(self._state.history)
        return goes_on

    @property
    def steps_done(self) -> int:
        """Of the whole run."""
        return self.plan.steps_before(self._state.epoch, self._state.step)

    @property
    def is_done(self) -> bool:
        """Whether all epochs are done, or so many in a row brought no lower loss that the run may stop."""
        return self._state.epoch > self._params.epochs or self._is_stale or self._broke_down

    @property
    def epoch_is_whole(self) -> bool:
        """Whether all steps of the current epoch are done."""
        return self._state.step == self.plan.steps_per_epoch

    def learn_epoch(self, progress: Progress, interrupts: Interrupts) -> None:
        """The steps that are left of the current epoch; a signal ends them early."""
        state, accumulate = self._state, self._params.optimizer.accumulate
        seconds_before, step_before = state.seconds, state.step
        batches = _whole_batches(state.shuffled(self._watch.train_rows), self._params.batch_size)
        todo = islice(batches, state.step * accumulate, self.plan.batches_per_epoch)
        state.start_clock()
        for number, (rows, batch) in enumerate(self._batches.read(todo), start=1):
            features, scalars = self._learner.learn_from(batch, self._labels_of(rows))
            self._watch.teach(features, rows)
            state.log.add(scalars)
            if number % accumulate == 0 and self._end_step(progress, interrupts):
                break
        self.autosave.check()  # it waits for the device, so the clock counts whole steps
        state.stop_clock()
        num_views = self.plan.views_per_step * (state.step - step_before)
        # none where the run was cut off between the last step and its measuring
        self._views_per_s = num_views / (state.seconds - seconds_before) if num_views else None

    def _end_step(self, progress: Progress, interrupts: Interrupts) -> bool:
        """True where a signal asks for the end."""
        state = self._state
        lr = self.plan.learning_rate(state.epoch, state.step)
        self._learner.update(lr, self.plan.peak, head_alone=self.plan.head_is_alone(state.epoch))
        state.step += 1
        # each rank has signals and clocks of its own: what one of them says holds for all
        signal, shows, saves = self._world.most(
            interrupts.signal or 0, progress.step(self.plan.views_per_step), self.autosave.is_due
        )
        if shows:
            # reading the loss waits for the device, so it is read only when it is shown
            progress.show(state.log.columns()["loss"][-1].item(), lr)
            self.autosave.check()
        if saves and not signal:
            self.autosave.save_within_epoch()
        return bool(signal)

    def signal_of_any(self, interrupts: Interrupts) -> int | None:
        """The signal that a rank of this run was sent."""
        (signal,) = self._world.most(interrupts.signal or 0)
        return signal or None

    def end_epoch(self, progress: Progress) -> None:
        """The epoch is measured, shown and kept; the next one begins."""
        state = self._state
        lr = self.plan.learning_rate(state.epoch, state.step - 1)
        self.autosave.check()  # the last losses may be what was not looked at
        self._measure(state.log.row(state.epoch, lr))
        self._show_epoch(progress)
        self._on_epoch(state.history)
        check_collapse(state.history[-1], self._params, self._learner.backbone.feature_dim)
        state.end_epoch()

    def _measure(self, row: Row) -> None:
        """Adds a row to the history, and puts the weights aside where the run would end with them now."""
        state = self._state
        row, measured = self._world.first((row, self._watch.measure()))
        state.history.append(row | measured.figures)
        if measured.hits is not None:
            state.hits["last"] = torch.from_numpy(measured.hits)
            state.hits.setdefault("start", state.hits["last"])
        chooses = self._keeps_best or self._params.early_stopping.patience is not None
        if chooses and self._kept_epoch == len(state.history) - 1:
            state.kept_weights = weights_on_cpu(self._learner.backbone.module)

    def end_with_best(self, error: NotFiniteError, progress: Progress) -> None:
        """Ends a run that broke down with the best epoch so far, where the best is kept.

        Raises:
            NotFiniteError: it is not.
        """
        state = self._state
        if not state.history or not self._keeps_best:
            raise error
        progress.say(f"warning: {error}; the training ends with the best epoch so far")
        self._broke_down = True

    def stop(self, signal: int) -> NoReturn:
        """Saves the run and ends it.

        Raises:
            StoppedError: always.
        """
        state = self._state
        where = f"interrupted in epoch {state.epoch} after step {state.step} of {self.plan.steps_per_epoch}"
        if self._world.first(self.autosave.save()):  # nobody leaves before it is saved
            raise StoppedError(f"{where}; saved: the same command goes on from here", signal)
        raise StoppedError(
            f"{where}; it could not be saved: the same command goes on from the last checkpoint", signal
        )

    def announce(self, progress: Progress, *, goes_on: bool) -> None:
        """Where the run begins: at a checkpoint, or at its start."""
        self.autosave.start_clock()
        state = self._state
        if self.is_done:
            progress.say("had finished: nothing is left to train")
        elif goes_on:
            progress.say(
                f"goes on in epoch {state.epoch}, after step {state.step} of {self.plan.steps_per_epoch}"
            )
        else:
            self._show_epoch(progress)

    def say_where_it_ended(self, progress: Progress) -> None:
        """That the run stopped early, if it did, and which epoch's weights it ends with, if it chose."""
        history, params, kept = self._state.history, self._params, self._kept_epoch
        if self._is_stale:
            patience = params.early_stopping.patience
            progress.say(f"no lower loss for {patience} epochs: the weights of epoch {kept}")
        elif self._keeps_best:
            what = "the start" if kept == 0 else f"epoch {kept}"
            progress.say(f"kept: {what}, whose held-out kNN is {history[kept]['knn_top1']:.3f}, the best")
        elif params.keep == "best":
            first, last = history[0], history[-1]
            progress.say(
                f"pretrain.keep is best, but {self._watch.cannot_choose}: epoch {kept} is kept; "
                f"effective rank {first['effective_rank']:.1f} -> {last['effective_rank']:.1f}, uniformity "
                f"{first['uniformity']:.2f} -> {last['uniformity']:.2f}, start to end"
            )

    def result(self) -> TrainingRun:
        """The weights of the last epoch, or of the best, and what led to them."""
        state, learner = self._state, self._learner
        num_epochs = len(state.history) - 1
        num_views = self.plan.views_per_step * self.plan.steps_per_epoch * num_epochs
        hits = {name: found.numpy() for name, found in state.hits.items()}
        if state.kept_weights is not None:
            learner.backbone.module.load_state_dict(state.kept_weights)
        backbone = learner.encoder_weights(self._watch.train_rows)
        learner.backbone.module.load_state_dict(self._start)
        return TrainingRun(
            backbone=backbone,
            start=learner.encoder_weights(self._watch.train_rows),
            feature_dim=learner.backbone.feature_dim,
            statistics=learner.statistics,
            history=state.history,
            kept_epoch=self._kept_epoch,
            gain=paired_gain(hits["start"], hits["last"]) if hits else None,
            device=learner.device.type,
            precision=learner.precision,
            seconds=state.seconds,
            views_per_s=num_views / state.seconds if state.seconds else 0.0,
        )

    @property
    def _keeps_best(self) -> bool:
        return self._params.keep == "best" and self._watch.cannot_choose is None

    @property
    def _kept_epoch(self) -> int:
        return kept_epoch(self._state.history, self._params, best=self._keeps_best)

    @property
    def _is_stale(self) -> bool:
        patience, history = self._params.early_stopping.patience, self._state.history
        return patience is not None and len(history) - 1 - lowest_loss(history) >= patience

    def _labels_of(self, rows: Rows) -> Tensor:
        return torch.from_numpy(self._labels[rows]).to(self._learner.device, non_blocking=True)

    def _show_epoch(self, progress: Progress) -> None:
        row = self._state.history[-1]
        progress.show_epoch(row, sphere_share(row, self._params), self._views_per_s)


def _whole_batches(rows: Rows, batch_size: int) -> Iterator[Rows]:
    """What is left over is left out, and differs from epoch to epoch."""
    for start in range(0, len(rows) - batch_size + 1, batch_size):
        yield rows[start : start + batch_size]
