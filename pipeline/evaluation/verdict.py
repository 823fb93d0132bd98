"""The one question after a training, in one line: did it help?"""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.errors import UserError
from pipeline.evaluation.intervals import Interval
from pipeline.evaluation.labelled import Scores


@dataclass(frozen=True)
class Trained:
    """What a training ended with, as metrics `pretrain` say.

    Attributes:
        num_epochs: that it ended.
        kept_epoch: whose weights the encoder has; 0 is the start.
        last_gain: of the held-out kNN, the last epoch's over the start's; None where no label watched it.
    """

    num_epochs: int
    kept_epoch: int
    last_gain: Interval | None

    @classmethod
    def of(cls, metrics: Mapping[str, float]) -> "Trained":
        """From the metrics of stage `pretrain`.

        Raises:
            UserError: an earlier version wrote them.
        """
        names = ("knn_gain", "knn_gain_low", "knn_gain_high")
        gain = Interval(*(metrics[name] for name in names)) if "knn_gain" in metrics else None
        try:
            return cls(int(metrics["epoch"]), int(metrics["kept_epoch"]), gain)
        except KeyError as error:
            raise UserError(
                f"data/metrics/pretrain.json: has no {error}, as an earlier version wrote it: "
                "run 'dvc repro --force --single-item pretrain'"
            ) from None


def verdict(knn: Scores | None, gain: Interval | None, trained: Trained) -> str:
    """Whether the encoder is better than the start that its training began with.

    Args:
        knn: figures of the encoder; None where kNN was left out.
        gain: over the start, on the test images; None likewise.
        trained: what the training ended with.
    """
    accuracy = "no kNN with these labels"
    if knn is not None:
        top1 = knn["top1"]
        assert isinstance(top1, float)
        accuracy = f"kNN {100 * top1:.1f} %"
    last, num_epochs = trained.last_gain, trained.num_epochs
    if num_epochs == 0 and last is None:
        return f"{accuracy}: the start as it is, nothing was trained (pretrain.epochs: 0)"
    if last is not None and trained.kept_epoch == 0:  # watched, and the start had the best held-out kNN
        if num_epochs == 0:
            return f"{accuracy}: the start was kept; the training broke down before an epoch was over"
        held_out = f"after epoch {num_epochs} held-out images had {last.points} ({last.bounds})"
        return f"{accuracy}: the start was kept; {held_out}"
    if gain is None:
        return f"did training help? {accuracy}: look at spread in data/metrics/evaluate.json"
    if gain.low > 0:
        return f"{accuracy}, {gain.points} over the start ({gain.bounds})"
    return (
        f"{accuracy}, no better than the start ({gain.points}, {gain.bounds}): "
        "pretrain.epochs: 0 is the better choice"
    )
