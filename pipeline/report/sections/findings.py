"""Section 4: what may be wrong with the images, as galleries, the surest first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.collection.sources.collection import printable
from pipeline.report.album import Album, Tile
from pipeline.report.figures import Cell, Figure
from pipeline.report.run import Run

SHOWN = 24  # findings of a kind that are shown at once; a button shows as many more
_DRAWN = 200  # of a kind that are drawn, from which slider and button choose
_DRAWN_IMAGES = 500  # of a kind, likewise
_COUNTED = 5000  # of a kind that the slider counts; it goes no lower
_IMAGES = 12  # of a group; the others are counted
_NAMES = 3  # files that a finding names
_IDS = 100  # of a group, in the CSV; findings.parquet has all
_GROUPS = "near_duplicate"  # the one kind whose findings hold one another


@dataclass(frozen=True)
class Kind:
    """What a kind of finding is called, and where its threshold stands in `evaluate.findings`."""

    name: str
    title: str
    one: str
    many: str
    meaning: str
    threshold: str | None
    score: str


KINDS = (
    Kind(
        "train_test_pair",
        "In train and in test",
        "pair",
        "pairs",
        "Test images that can be known by heart. The figures without train-test pairs leave them out.",
        "near_duplicate",
        "correlation of the pixels",
    ),
    Kind(
        "label",
        "Labels that may be wrong",
        "label",
        "labels",
        "Neighbours and a classifier that has not seen the image agree on another class.",
        "label",
        "sureness of the others",
    ),
    Kind("exact_copy", "Exact copies", "group", "groups", "Files with the same bytes.", None, ""),
    Kind(
        "near_duplicate",
        "Near-duplicates",
        "group",
        "groups",
        "Other files with nearly the same picture.",
        "near_duplicate",
        "correlation of the pixels",
    ),
    Kind(
        "outlier",
        "Outliers",
        "image",
        "images",
        "Far from all others: a scan of nothing, another subject, or just rare.",
        "outlier",
        "deviations from the usual distance",
    ),
)


@dataclass(frozen=True)
class Finding:
    """One entry of a gallery.

    Attributes:
        score: the larger the surer.
        until: at thresholds up to this one it is a part of a larger group, and not shown.
        size: how many images it is about.
        why: in words.
        tiles: of its first images.
        more: how many are not drawn.
        names: of its first files.
        shown: whether it is at the threshold that the page begins with.
    """

    score: float
    until: float | None
    size: int
    why: str
    tiles: Sequence[Tile]
    more: int
    names: str
    shown: bool


@dataclass(frozen=True)
class Gallery:
    """The findings of a kind, the surest first.

    Attributes:
        kind: which.
        findings: those that stand in the page.
        threshold: from which score on they are shown; None where there is no slider.
        low: the slider's lower end.
        high: its upper end.
        step: of the slider.
        num: how many there are at the threshold.
        count: that in words.
        beyond: of the kind in the file and not in the page.
        figure: its table.
    """

    kind: Kind
    findings: Sequence[Finding]
    threshold: float | None
    low: float
    high: float
    step: float
    num: int
    count: str
    beyond: int
    figure: Figure


def findings(run: Run, album: Album) -> list[Gallery] | None:
    """A gallery for each kind that was found; None where findings were not looked for."""
    if run.findings is None:
        return None
    thresholds = run.params.get("evaluate", {}).get("findings", {})
    galleries = []
    for kind in KINDS:
        table = run.findings[run.findings["kind"] == kind.name].sort_values(
            "score", ascending=False, kind="stable"
        )
        if len(table):
            galleries.append(_gallery(kind, table, album, thresholds))
    return galleries


def untils(groups: Sequence[Sequence[int]], scores: Sequence[float]) -> list[float | None]:
    """Of groups that grow as the score falls, the score of the next larger one that holds each.

    At a threshold above it and up to the group's own score the group is one of those at that threshold.

    Args:
        groups: ids, those of the larger score first; of two with a common image one holds the other.
        scores: theirs, falling.

    Returns:
        None for a group that no other holds.
    """
    found: list[float | None] = [None] * len(groups)
    last: dict[int, int] = {}
    order = sorted(range(len(groups)), key=lambda place: (-scores[place], len(groups[place])))
    for place in order:
        for id_ in groups[place]:
            held = last.get(id_)
            if held is not None and found[held] is None and len(groups[held]) < len(groups[place]):
                found[held] = scores[place]
            last[id_] = place
    return found


def is_shown(score: float, until: float | None, threshold: float) -> bool:
    """Whether a finding is one of those at a threshold; findings.js asks the same."""
    return score >= threshold and (until is None or until < threshold)


def _gallery(kind: Kind, table: pd.DataFrame, album: Album, thresholds: Mapping[str, Any]) -> Gallery:
    groups = [[int(id_) for id_ in of] for of in table["ids"]]
    scores = [float(score) for score in table["score"]]
    until = untils(groups, scores) if kind.name == _GROUPS else [None] * len(groups)
    num_counted, num_drawn = min(len(groups), _COUNTED), _num_drawn(groups)
    low, high, step = _slider(scores, num_counted)
    threshold = max(low, _threshold(kind, thresholds, low))
    high = max(high, threshold)  # it may be that none of them is so sure
    at = [is_shown(score, end, threshold) for score, end in zip(scores, until, strict=True)]
    reasons = [printable(str(why)) for why in table["why"].iloc[:num_drawn]]
    rows: list[list[Cell]] = [
        [
            kind.name,
            scores[row],
            until[row],
            len(groups[row]),
            *((" ".join(map(str, groups[row][:_IDS])), reasons[row]) if row < num_drawn else ("", "")),
        ]
        for row in range(num_counted)
    ]
    return Gallery(
        kind=kind,
        findings=[
            Finding(
                score=scores[row],
                until=until[row],
                size=len(groups[row]),
                why=reasons[row],
                tiles=[album.tile(id_, _caption(album, id_)) for id_ in groups[row][:_IMAGES]],
                more=max(0, len(groups[row]) - _IMAGES),
                names=_names(album, groups[row]),
                shown=at[row] and sum(at[: row + 1]) <= SHOWN,
            )
            for row in range(num_drawn)
        ],
        threshold=threshold if kind.threshold is not None and high > low else None,
        low=low,
        high=high,
        step=step,
        num=sum(at),
        count=_count(kind, sum(at), sum(len(of) for of, is_at in zip(groups, at, strict=True) if is_at)),
        beyond=len(groups) - num_drawn,
        figure=Figure(f"findings-{kind.name}", ("kind", "score", "until", "num_images", "ids", "why"), rows),
    )


def _slider(scores: Sequence[float], num_counted: int) -> tuple[float, float, float]:
    """The ends of a slider over falling scores, and its step, of which both are multiples."""
    digits = 3 if scores[0] <= 1 else 1
    step = 10.0**-digits
    # below the last that is counted some would be missed
    lower = math.floor if num_counted == len(scores) else math.ceil
    low, high = lower(scores[num_counted - 1] / step) * step, math.ceil(scores[0] / step) * step
    return round(low, digits), round(high, digits), step


def _num_drawn(groups: Sequence[Sequence[int]]) -> int:
    """So many of the surest that neither they nor their images are too many for a page."""
    drawn: set[int] = set()
    for row, group in enumerate(groups[:_DRAWN]):
        drawn.update(group[:_IMAGES])
        if len(drawn) > _DRAWN_IMAGES:
            return row
    return min(len(groups), _DRAWN)


def _threshold(kind: Kind, thresholds: Mapping[str, Any], otherwise: float) -> float:
    """That of the params."""
    value = thresholds.get(kind.threshold) if kind.threshold is not None else None
    return float(value) if isinstance(value, int | float) else otherwise


def _count(kind: Kind, num: int, num_images: int) -> str:
    words = f"{num:,} {kind.one if num == 1 else kind.many}"
    return f"{words}, {num_images:,} images" if kind.one in ("group", "pair") else words


def _caption(album: Album, id_: int) -> str:
    return " · ".join(filter(None, [album.class_name(id_), album.split(id_)]))


def _names(album: Album, ids: Sequence[int]) -> str:
    names = ", ".join(album.source(id_) for id_ in ids[:_NAMES])
    return names + (f" and {len(ids) - _NAMES} more" if len(ids) > _NAMES else "")
