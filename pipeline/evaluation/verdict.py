"""The one question after a training, in one line: did it help?"""

from collections.abc import Mapping
from dataclasses import dataclass

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
        """From the metrics of stage `pretrain`."""
        names = ("knn_gain", "knn_gain_low", "knn_gain_high")
        gain = Interval(*(metrics[name] for name in names)) if "knn_gain" in metrics else None
        return cls(int(metrics["epoch"]), int(metrics["kept_epoch"]), gain)


def verdict(knn: Scores | None, gain: Interval | None, trained: Trained, *, is_start: bool) -> str:
    """Whether the encoder is better than the start that its training began with.

    Args:
        knn: figures of the encoder; None where kNN was left out.
        gain: over the start, on the test images; None likewise.
        trained: what the training ended with.
        is_start: whether the encoder is the start, the mean of its features not even taken off.
    """
    if knn is None or gain is None:
        if trained.num_epochs == 0:
            return "no kNN with these labels; nothing was trained (pretrain.epochs: 0)"
        return "did training help? No kNN with these labels: look at spread in data/metrics/evaluate.json"
    top1 = knn["top1"]
    assert isinstance(top1, float)
    accuracy = f"kNN {100 * top1:.1f} %"
    last = trained.last_gain
    if is_start and trained.num_epochs == 0 and last is None:
        return f"{accuracy}: the start as it is (pretrain.epochs: 0)"
    compared = f"{accuracy}, {gain.points} over the start ({gain.bounds})"
    if gain.low <= 0:
        compared = f"{accuracy}, no better than the start ({gain.points}, {gain.bounds})"
    if last is None or trained.kept_epoch > 0:
        instead = ": pretrain.epochs: 0 is the better choice" if trained.num_epochs and gain.low <= 0 else ""
        return compared + instead
    # watched, and the start had the best held-out kNN
    said = accuracy if is_start else compared
    if trained.num_epochs == 0:
        return f"{said}: the start was kept; the training broke down before an epoch was over"
    held_out = f"after epoch {trained.num_epochs} held-out images had {last.points} ({last.bounds})"
    return f"{said}: the start was kept; {held_out}"
