"""How many steps a run has, and the learning rate of each."""

from pipeline.errors import UserError
from pipeline.params.pretrain import Pretrain
from pipeline.training.optimizers import learning_rate, peak_learning_rate


class Plan:
    """The steps of a run.

    Args:
        params: of the run.
        num_images: to learn from, in every epoch.

    Attributes:
        steps_per_epoch: of the optimiser; what is left over of the images differs from epoch to epoch.
        batches_per_epoch: so many times as many, where gradients are accumulated.
        num_steps: of the whole run.
        views_per_step: that are seen for one of them.
        peak: the highest learning rate.
        lr_key: the key of params.yaml that it comes from.

    Raises:
        UserError: the batches of one step are more than the images.
    """

    def __init__(self, params: Pretrain, num_images: int) -> None:
        accumulate = params.optimizer.accumulate
        self._optimizer = params.optimizer
        self.steps_per_epoch = num_images // params.batch_size // accumulate
        if self.steps_per_epoch == 0:
            times = f" times optimizer.accumulate ({accumulate})" if accumulate > 1 else ""
            raise UserError(
                f"params.yaml: pretrain.batch_size: {params.batch_size}{times} is more than the "
                f"{num_images} images there are to train on (the rest is held out): choose a smaller batch"
            )
        self.batches_per_epoch = self.steps_per_epoch * accumulate
        self.num_steps = params.epochs * self.steps_per_epoch
        self.views_per_step = accumulate * params.num_views * params.batch_size
        # a warm-up may be longer than a run that was made short
        self._warmup_steps = min(round(params.optimizer.warmup_epochs * self.steps_per_epoch), self.num_steps)
        self.lr_key, lr = params.peak_lr
        self.peak = peak_learning_rate(lr, params.optimizer, params.batch_size * accumulate)

    def steps_before(self, epoch: int, step: int) -> int:
        """Of the whole run, before a step of an epoch."""
        return (epoch - 1) * self.steps_per_epoch + step

    def head_is_alone(self, epoch: int) -> bool:
        """Whether the backbone's rate is still 0 in an epoch, from 1."""
        return epoch <= self._optimizer.head_epochs

    def learning_rate(self, epoch: int, step: int) -> float:
        """Of step `step`, from 0, of an epoch, from 1."""
        done = self.steps_before(epoch, step)
        return learning_rate(self._optimizer, self.peak, done, self.num_steps, self._warmup_steps)
