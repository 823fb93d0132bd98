"""Section 1: what it is, the verdict in words, and the headline figures with their intervals."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.evaluation.intervals import Interval, paired_gain
from pipeline.evaluation.verdict import Trained, verdict
from pipeline.report import charts
from pipeline.report.figures import Cell, Figure, per_cent
from pipeline.report.run import Run

SUBJECTS = {"encoder": "encoder", "start": "start", "pixels": "raw pixels", "finetuned": "fine-tuned"}
_BETTER, _WORSE = "mean average precision at R", "mean average precision"  # of two that say one thing
# what it is called, protocol, figure; those that are there are shown
_MEASURES = (
    ("kNN", "knn", "top1"),
    ("linear probe", "linear", "top1"),
    ("linear probe, 1 % of the labels", "linear_1pct", "mean"),
    ("linear probe, 10 % of the labels", "linear_10pct", "mean"),
    ("nearest image", "retrieval", "top1"),
    ("precision at 10", "retrieval", "precision_at_10"),
    (_BETTER, "retrieval", "map_at_r"),
    (_WORSE, "retrieval", "map"),
    ("clusters agree with classes (adjusted Rand index)", "clusters", "ari"),
    ("an image finds its own augmented view", "views", "consistency"),
)
_CHARTED = ("knn", "linear", "retrieval")
COMMONEST = "always the commonest class"


@dataclass(frozen=True)
class Score:
    """A figure of a subject in per cent, and its interval; empty where there is none."""

    value: str
    bounds: str


@dataclass(frozen=True)
class Summary:
    """What the template shows.

    Attributes:
        headline: the verdict in a few words.
        verdict: in one line.
        facts: sentences on what was learned from what.
        warnings: sentences that a person must not miss.
        subjects: titles of the table's columns.
        scores: a row a measure: its title, and a score a subject.
        commonest: share of the commonest class in per cent; empty without labels.
        reasons: why protocols were left out, each once.
        figure: the table's data and chart.
    """

    headline: str
    verdict: str
    facts: Sequence[str]
    warnings: Sequence[str]
    subjects: Sequence[str]
    scores: Sequence[tuple[str, Sequence[Score]]]
    commonest: str
    reasons: Sequence[str]
    figure: Figure


def summary(run: Run) -> Summary:
    scores, trained = run.metrics["evaluate"], Trained.of(run.metrics["pretrain"])
    gain = _gain(scores)
    subjects = scored_subjects(scores)
    rows = _rows(scores, subjects)
    share = scores.get("majority_share")
    shown: list[tuple[str, list[Score]]] = []
    for title, _, of_subjects in rows:
        shown.append((title, [_score(*of_subjects[subject]) for subject in subjects]))
    return Summary(
        headline=_headline(gain, trained),
        verdict=verdict(scores["encoder"].get("knn"), gain, trained),
        facts=[
            *_about_the_collection(run),
            _about_the_encoder(run),
            *_over_pixels(run),
            *_about_the_embeddings(run),
            _about_the_index(run),
        ],
        warnings=_warnings(run),
        subjects=[SUBJECTS[subject] for subject in subjects],
        scores=shown,
        commonest="" if share is None else per_cent(share),
        reasons=list(dict.fromkeys(scores.get("left_out", {}).values())),
        figure=_figure(rows, subjects, share),
    )


def scored_subjects(scores: Mapping[str, Any]) -> list[str]:
    """Those that metrics `evaluate` have; not the start where the encoder is the start."""
    start, encoder = scores.get("start", {}), scores.get("encoder", {})
    same = all(encoder.get(protocol) == figures for protocol, figures in start.items())
    return [name for name in SUBJECTS if name in scores and not (name == "start" and same)]


Values = tuple[float | None, float | None, float | None]  # value, low, high


def _rows(scores: Mapping[str, Any], subjects: Sequence[str]) -> list[tuple[str, str, dict[str, Values]]]:
    """Title, protocol, and of each subject value and bounds, for each measure that any of them has."""
    rows = []
    for title, protocol, figure in _with_those_without_pairs():
        of_subjects: dict[str, Values] = {}
        for subject in subjects:
            figures = scores[subject].get(protocol, {})
            low, high = (figures.get(f"{figure}_{bound}") for bound in ("low", "high"))
            of_subjects[subject] = (figures.get(figure), low, high)
        if any(value is not None for value, _, _ in of_subjects.values()):
            rows.append((title, protocol, of_subjects))
    if any(title == _BETTER for title, _, _ in rows):
        rows = [row for row in rows if row[0] != _WORSE]
    return rows


def _with_those_without_pairs() -> Iterator[tuple[str, str, str]]:
    """Every measure, and behind it what it is without the test images that stand in the training images."""
    for title, protocol, figure in _MEASURES:
        yield title, protocol, figure
        yield f"{title}, without train-test pairs", protocol, f"{figure}_without_pairs"


def _score(value: float | None, low: float | None, high: float | None) -> Score:
    if value is None:
        return Score("", "")
    if low is None or high is None:
        return Score(per_cent(value), "")
    return Score(per_cent(value), f"{per_cent(low)} to {per_cent(high)}")


def _figure(
    rows: Sequence[tuple[str, str, dict[str, Values]]], subjects: Sequence[str], share: float | None
) -> Figure:
    table: list[list[Cell]] = [
        [title, SUBJECTS[subject], *of_subjects[subject]]
        for title, _, of_subjects in rows
        for subject in subjects
        if of_subjects[subject][0] is not None
    ]
    if share is not None:
        table.append([COMMONEST, "", share, None, None])
    charted = [title for title, protocol, _ in rows if protocol in _CHARTED and "without" not in title]
    names = [SUBJECTS[subject] for subject in subjects]
    with_bounds = any(low is not None for _, _, of in rows for _, low, _ in of.values())
    chart = charts.intervals(charted, names, with_bounds=with_bounds) if charted else None
    said = "; ".join(
        f"{title}: "
        + ", ".join(f"{SUBJECTS[s]} {_score(*of[s]).value} %" for s in subjects if of[s][0] is not None)
        for title, _, of in rows
        if title in charted
    )
    return Figure("headline", ("measure", "subject", "value", "low", "high"), table, chart, said)


def _gain(scores: Mapping[str, Any]) -> Interval | None:
    """Of kNN over the start."""
    gained = scores.get("over_start", {}).get("knn")
    return Interval(gained["top1"], gained["top1_low"], gained["top1_high"]) if gained else None


def _headline(gain: Interval | None, trained: Trained) -> str:
    if trained.num_epochs == 0:
        return "The start as it is: nothing was trained"
    if trained.kept_epoch == 0:
        return "Training did not help: the start was kept"
    if gain is None:
        return "Trained, and with no kNN to score it by"
    if gain.low > 0:
        return "Training helped"
    return "Training made it worse" if gain.high < 0 else "Training made no difference beyond chance"


def _about_the_collection(run: Run) -> list[str]:
    splits = ", ".join(f"{count:,} {split}" for split, count in run.num_images.items())
    classes = f"{len(run.class_names):,} class{'es' if len(run.class_names) != 1 else ''}"
    labels = f"of {classes}" if run.has_labels else "without labels"
    rejected = run.metrics["fetch"].get("num_rejected", 0)
    left_out = f" {rejected:,} more could not be read." if rejected else ""
    return [f"{_images(run.size)} ({splits}) {labels}.{left_out}"]


def _about_the_encoder(run: Run) -> str:
    encoder, trained = run.encoder, Trained.of(run.metrics["pretrain"])
    start = "from pretrained weights" if encoder.get("weights_sha256") else "from random weights"
    size = encoder["image_size"]
    network = f"{encoder['backbone']}: {size} × {size} pixels in, {encoder['feature_dim']} numbers out"
    if trained.num_epochs == 0:
        return f"{network}. It is the start as it is, {start}."
    kept = (
        "" if trained.kept_epoch == trained.num_epochs else f", of which epoch {trained.kept_epoch} was kept"
    )
    epochs = f"{trained.num_epochs} epoch{'s' if trained.num_epochs != 1 else ''}"
    return f"{network}. It learned {start} by {encoder['method']}, {epochs}{kept}."


def _about_the_embeddings(run: Run) -> list[str]:
    spread = run.metrics["evaluate"]["encoder"].get("spread", {})
    if "effective_rank" not in spread:
        return []
    directions = f"{spread['effective_rank']:.1f} of {run.encoder['feature_dim']} directions"
    return [f"Its embeddings use {directions} (effective rank)."]


def _images(num: int) -> str:
    return f"{num:,} image{'s' if num != 1 else ''}"


def _about_the_index(run: Run) -> str:
    index = run.metrics["index"]
    recall = f"{per_cent(index['recall_at_10'])} % of the true ten nearest"
    if index["recall_at_10_low"] < index["recall_at_10_high"]:
        low, high = per_cent(index["recall_at_10_low"]), per_cent(index["recall_at_10_high"])
        recall += f" (95 % interval {low} to {high})"
    return f"The index ({index['factory']}) holds {_images(index['count'])} and finds {recall}."


def _over_pixels(run: Run) -> list[str]:
    """What the encoder has right more than the pixels, image by image."""
    table = run.outcomes[run.outcomes["protocol"] == "knn"]
    pixels, encoder = (
        table.loc[table["subject"] == subject].sort_values("id") for subject in ("pixels", "encoder")
    )
    if len(pixels) == 0 or not np.array_equal(pixels["id"].to_numpy(), encoder["id"].to_numpy()):
        return []
    gain = paired_gain(pixels["correct"].to_numpy(dtype=bool), encoder["correct"].to_numpy(dtype=bool))
    where = "above" if gain.value >= 0 else "below"
    chance = "" if gain.low > 0 or gain.high < 0 else ", which may be chance"
    return [f"kNN is {per_cent(abs(gain.value))} points {where} raw pixels ({gain.bounds}){chance}."]


def _warnings(run: Run) -> list[str]:
    scores = run.metrics["evaluate"]
    found = []
    if not run.is_trained_on_these:
        found.append("The collection has changed since the encoder was trained.")
    if scores["encoder"].get("spread", {}).get("collapsed"):
        found.append("The encoder has collapsed: it gives nearly the same numbers for every image.")
    if not run.metrics["index"].get("target_reached", True):
        found.append("The index does not surely find as much as index.target_recall asks for.")
    only_in_test = scores.get("num_classes_only_in_test", 0)
    if only_in_test:
        found.append(
            f"{only_in_test:,} classes stand in the test images alone: no answer on them can be right."
        )
    return found
