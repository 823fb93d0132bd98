"""The training loop: unlabelled images in, a backbone and its history out."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import NotFiniteError
from pipeline.params.pretrain import Pretrain
from pipeline.training.display.progress import Progress
from pipeline.training.distributed.world import ALONE, World
from pipeline.training.learner import Learner
from pipeline.training.monitoring.epoch_log import Row
from pipeline.training.pixels import Images
from pipeline.training.resuming.checkpoint import Checkpoints
from pipeline.training.resuming.interrupts import deferred_interrupts
from pipeline.training.run import RunUnderWay, TrainingRun


def train(
    images: Images,
    labels: NDArray[np.int64],
    params: Pretrain,
    checkpoints: Checkpoints | None = None,
    on_epoch: Callable[[list[Row]], None] = lambda history: None,
    world: World = ALONE,
) -> TrainingRun:
    """Trains a backbone on images; the labels are only asked how well it does.

    Args:
        images: uint8 [N, H, W, 3], of which a batch is read at a time.
        labels: [N], classes, or -1 where there is none; without any label there is neither kNN nor probe.
        params: the run; equal params, images and kind of machine give equal bytes.
        checkpoints: where the run goes on from, and saves itself. With them Ctrl-C and SIGTERM let the step
            end and save it.
        on_epoch: is given the history whenever it has a new row, and once when the run goes on.
        world: the processes that train together. Each calls this, with the same images, labels and params,
            and has the same run; all say what they have to say, and the first alone saves.

    Raises:
        UserError: fewer images than a batch or the method needs, a backbone that cannot be built, a collapse
            where that stops the run, a loss that is no longer finite where the best epoch is not kept, or a
            step that cannot be recorded on a GPU.
        MachineError: there is no such device.
        StoppedError: by a signal.
    """
    if params.epochs == 0:
        return _start_alone(images, params, on_epoch)
    run = RunUnderWay(images, labels, params, checkpoints, on_epoch, world)
    goes_on = run.begin()
    with (
        Progress(run.plan.num_steps, run.steps_done, params.epochs) as progress,
        deferred_interrupts(active=checkpoints is not None) as interrupts,
    ):
        run.announce(progress, goes_on=goes_on)
        while not run.is_done:
            try:
                run.learn_epoch(progress, interrupts)
                if run.epoch_is_whole:
                    run.end_epoch(progress)
                if (signal := run.signal_of_any(interrupts)) is not None:
                    run.stop(signal)
                run.autosave.after_epoch(is_last=run.is_done)
            except NotFiniteError as error:
                run.end_with_best(error, progress)
        run.say_where_it_ended(progress)
    return run.result()


def _start_alone(images: Images, params: Pretrain, on_epoch: Callable[[list[Row]], None]) -> TrainingRun:
    """A run without epochs: the backbone is the start, and nothing is asked of the images or the labels."""
    learner = Learner(images, params)
    start = learner.encoder_weights(np.random.default_rng(params.seed).permutation(len(images)))
    history: list[Row] = [{"epoch": 0, "lr": 0.0}]
    on_epoch(history)
    return TrainingRun(
        backbone=start,
        start=start,
        feature_dim=learner.backbone.feature_dim,
        statistics=learner.statistics,
        history=history,
        kept_epoch=0,
        gain=None,
        device=learner.device.type,
        precision=learner.precision,
        seconds=0.0,
        views_per_s=0.0,
    )
