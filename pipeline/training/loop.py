"""The training loop: unlabelled images in, a backbone and its history out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import StoppedError
from pipeline.params.pretrain import Pretrain
from pipeline.training.batches import Batches, Rows
from pipeline.training.display.progress import Progress
from pipeline.training.guards import check_collapse, sphere_share
from pipeline.training.learner import Learner
from pipeline.training.monitoring.epoch_log import EpochLog, Row
from pipeline.training.monitoring.monitor import Watch
from pipeline.training.pixels import Images, PixelStatistics
from pipeline.training.plan import Plan
from pipeline.training.resuming.autosave import Autosave
from pipeline.training.resuming.checkpoint import Checkpoints
from pipeline.training.resuming.interrupts import Interrupts, deferred_interrupts
from pipeline.training.resuming.run_state import RunState, weights_on_cpu


@dataclass(frozen=True)
class TrainingRun:
    """What a run leaves.

    Attributes:
        backbone: the trained weights, on the CPU.
        untrained: the weights before the first step.
        feature_dim: what the backbone gives.
        statistics: of the pixels; the encoder normalises with them.
        history: a row an epoch, from epoch 0, the untrained network.
        device: that the run was on.
        precision: of the forward pass.
        seconds: of the training steps alone.
        views_per_s: in those.
    """

    backbone: dict[str, Tensor]
    untrained: dict[str, Tensor]
    feature_dim: int
    statistics: PixelStatistics
    history: list[Row]
    device: str
    precision: str
    seconds: float
    views_per_s: float


def train(
    images: Images,
    labels: NDArray[np.int64],
    params: Pretrain,
    checkpoints: Checkpoints | None = None,
    on_epoch: Callable[[list[Row]], None] = lambda history: None,
) -> TrainingRun:
    """Trains a backbone on images; the labels are only asked how well it does.

    Args:
        images: uint8 [N, H, W, 3], of which a batch is read at a time.
        labels: [N], classes, or -1 where there is none; without any label there is neither kNN nor probe.
        params: the run; equal params, images and kind of machine give equal bytes.
        checkpoints: where the run goes on from, and saves itself. With them Ctrl-C and SIGTERM let the step
            end and save it.
        on_epoch: is given the history whenever it has a new row, and once when the run goes on.

    Raises:
        UserError: fewer images than a batch or the method needs, a backbone that cannot be built, a collapse
            where that stops the run, a loss that is no longer finite, or a step that cannot be recorded on
            a GPU.
        MachineError: there is no such device.
        StoppedError: by a signal.
    """
    run = _Run(images, labels, params, checkpoints, on_epoch)
    goes_on = run.begin()
    with (
        Progress(run.plan.num_steps, run.steps_done, params.epochs) as progress,
        deferred_interrupts(active=checkpoints is not None) as interrupts,
    ):
        run.announce(progress, goes_on=goes_on)
        while not run.is_done:
            run.learn_epoch(progress, interrupts)
            if run.epoch_is_whole:
                run.end_epoch(progress)
            if interrupts.signal is not None:
                run.stop(interrupts.signal)
            run.autosave.after_epoch(is_last=run.is_done)
        run.say_where_it_ended(progress)
    return run.result()


class _Run:
    """A run under way: what learns, what watches it, and where it stands. As `train` describes it."""

    def __init__(
        self,
        images: Images,
        labels: NDArray[np.int64],
        params: Pretrain,
        checkpoints: Checkpoints | None,
        on_epoch: Callable[[list[Row]], None],
    ) -> None:
        self._params, self._labels, self._on_epoch = params, labels, on_epoch
        self._learner = learner = Learner(images, params)
        self._untrained = weights_on_cpu(learner.backbone.module)
        self._watch = Watch(images, labels, learner.backbone, learner.mean, learner.std, params)
        num_images = len(self._watch.train_rows)
        learner.check_collection(num_images)
        self.plan = Plan(params, num_images)
        self._batches = Batches(images, learner.device)
        self._state = RunState(
            modules={**learner.modules, **self._watch.modules},
            generators={**learner.generators, "probe": self._watch.generator},
            shuffle=np.random.default_rng(params.seed),
        )
        self.autosave = Autosave(checkpoints, self._state, self.plan, params.checkpoint)
        self._views_per_s: float | None = None

    def begin(self) -> bool:
        """Goes on from the newest checkpoint (True), or measures the untrained network as epoch 0."""
        goes_on = self.autosave.load()
        if not goes_on:
            ((rows, batch),) = self._batches.read([self._watch.train_rows[: self._params.batch_size]])
            log = EpochLog()
            log.add(self._learner.look_at(batch, self._labels_of(rows)))
            self._state.history.append(log.row(epoch=0, lr=0.0) | self._watch.measure())
        self._on_epoch(self._state.history)
        return goes_on

    @property
    def steps_done(self) -> int:
        """Of the whole run."""
        return self.plan.steps_before(self._state.epoch, self._state.step)

    @property
    def is_done(self) -> bool:
        """Whether all epochs are done, or so many in a row brought no lower loss that the run may stop."""
        return self._state.epoch > self._params.epochs or self._is_stale

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
            if number % accumulate:
                continue
            self._end_step(progress)
            if interrupts.signal is not None:
                break
            self.autosave.after_step()
        self.autosave.check()  # it waits for the device, so the clock counts whole steps
        state.stop_clock()
        num_views = self.plan.views_per_step * (state.step - step_before)
        # none where the run was cut off between the last step and its measuring
        self._views_per_s = num_views / (state.seconds - seconds_before) if num_views else None

    def _end_step(self, progress: Progress) -> None:
        state = self._state
        lr = self.plan.learning_rate(state.epoch, state.step)
        self._learner.update(lr, self.plan.peak)
        state.step += 1
        if progress.step(self.plan.views_per_step):
            # reading the loss waits for the device, so it is read only when it is shown
            progress.show(state.log.columns()["loss"][-1].item(), lr)
            self.autosave.check()

    def end_epoch(self, progress: Progress) -> None:
        """The epoch is measured, shown and kept; the next one begins."""
        state = self._state
        lr = self.plan.learning_rate(state.epoch, state.step - 1)
        state.history.append(state.log.row(state.epoch, lr) | self._watch.measure())
        self._show_epoch(progress)
        self._on_epoch(state.history)
        check_collapse(state.history[-1], self._params, self._learner.backbone.feature_dim)
        if self._params.early_stopping.patience is not None:
            state.keep_best(self._learner.backbone.module)
        state.end_epoch()

    def stop(self, signal: int) -> NoReturn:
        """Saves the run and ends it.

        Raises:
            StoppedError: always.
        """
        state = self._state
        where = f"interrupted in epoch {state.epoch} after step {state.step} of {self.plan.steps_per_epoch}"
        if self.autosave.save():
            raise StoppedError(f"{where}; saved: the same command goes on from here", signal)
        raise StoppedError(
            f"{where}; it could not be saved: the same command goes on from the last checkpoint", signal
        )

    def announce(self, progress: Progress, *, goes_on: bool) -> None:
        """Where the run begins: at a checkpoint, or at the untrained network."""
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
        """That the run stopped early, if it did."""
        if self._is_stale:
            patience, best = self._params.early_stopping.patience, self._state.best_epoch
            progress.say(f"no lower loss for {patience} epochs: the weights of epoch {best}")

    def result(self) -> TrainingRun:
        """The weights of the last epoch, or of the best, and what led to them."""
        state, learner = self._state, self._learner
        num_epochs = len(state.history) - 1
        num_views = self.plan.views_per_step * self.plan.steps_per_epoch * num_epochs
        return TrainingRun(
            backbone=state.best_weights or weights_on_cpu(learner.backbone.module),
            untrained=self._untrained,
            feature_dim=learner.backbone.feature_dim,
            statistics=learner.statistics,
            history=state.history,
            device=learner.device.type,
            precision=learner.precision,
            seconds=state.seconds,
            views_per_s=num_views / state.seconds if state.seconds else 0.0,
        )

    @property
    def _is_stale(self) -> bool:
        return self._state.is_stale(self._params.early_stopping.patience)

    def _labels_of(self, rows: Rows) -> Tensor:
        return torch.from_numpy(self._labels[rows]).to(self._learner.device, non_blocking=True)

    def _show_epoch(self, progress: Progress) -> None:
        row = self._state.history[-1]
        progress.show_epoch(row, sphere_share(row, self._params), self._views_per_s)


def _whole_batches(rows: Rows, batch_size: int) -> Iterator[Rows]:
    """What is left over is left out, and differs from epoch to epoch."""
    for start in range(0, len(rows) - batch_size + 1, batch_size):
        yield rows[start : start + batch_size]
