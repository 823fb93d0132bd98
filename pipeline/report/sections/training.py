"""Section 5: the training, epoch by epoch, and what the network was shown."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report import charts
from pipeline.report.album import Album, Tile
from pipeline.report.figures import Figure
from pipeline.report.run import Run

_VIEWS = 16
# a name, what is said of it, its columns of history.tsv, whether they are shares
_CURVES = (
    ("loss", "Loss", ("loss",), False),
    ("lr", "Learning rate", ("lr",), False),
    ("watched", "kNN and linear probe, held-out images", ("knn_top1", "probe_top1"), True),
    ("pairs", "The other view is found in the batch", ("top1", "top5"), True),
    ("deviation", "Spread: standard deviation", ("projection_std", "feature_std"), False),
    ("rank", "Effective rank", ("effective_rank",), False),
    ("uniformity", "Uniformity (lower is more even)", ("uniformity",), False),
)


@dataclass(frozen=True)
class Training:
    """What the template shows.

    Attributes:
        reason: why there are no curves; empty where there are.
        curves: each with its title and, in its description, its first and last values.
        words: on what the curves say.
        views: images beside one view of each.
    """

    reason: str
    curves: Sequence[tuple[str, Figure]]
    words: str
    views: Sequence[tuple[Tile, Tile]]


def training(run: Run, album: Album, seed: int) -> Training:
    metrics = run.metrics["pretrain"]
    num_epochs = int(metrics.get("epoch", 0))
    if len(run.history) < 2:
        reason = "Nothing was trained (pretrain.epochs: 0), so there are no curves."
        return Training(reason, [], "", _views(run, album, seed))
    kept = int(metrics.get("kept_epoch", num_epochs))
    curves = []
    for name, title, columns, is_share in _CURVES:
        there = [column for column in columns if column in run.history and run.history[column].notna().any()]
        if there:
            curves.append((title, _curve(run, name, title, there, is_share, kept)))
    which = "the last" if kept == num_epochs else "not the last"
    words = f"Epoch 0 is the start. The dashed line is the epoch that was kept: {kept}, {which}."
    return Training("", curves, words, _views(run, album, seed))


def _curve(run: Run, name: str, title: str, columns: Sequence[str], is_share: bool, kept: int) -> Figure:
    table = run.history[["epoch", *columns]]
    values = {column: run.history[column].dropna() for column in columns}
    ends = ", ".join(f"{name} from {of.iloc[0]:.4g} to {of.iloc[-1]:.4g}" for name, of in values.items())
    return Figure(
        f"training-{name}",
        list(table.columns),
        table.to_numpy().tolist(),
        charts.over_epochs(columns, share=is_share, kept_epoch=kept),
        f"{title} over {len(table)} epochs: {ends}",
    )


def _views(run: Run, album: Album, seed: int) -> list[tuple[Tile, Tile]]:
    chosen = np.sort(np.random.default_rng(seed).permutation(len(run.viewed))[:_VIEWS])
    return [
        (
            album.tile(int(run.viewed[row]), ""),
            album.other_tile(run.size + row, f"augmented view of {album.describe(int(run.viewed[row]))}"),
        )
        for row in chosen.tolist()
    ]
