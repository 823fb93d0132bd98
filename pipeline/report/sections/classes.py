"""Section 6: class by class: recall, what is taken for what, and how many labels it takes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import UNLABELLED
from pipeline.collection.sources.collection import printable
from pipeline.report import charts
from pipeline.report.album import Album, Tile
from pipeline.report.figures import Cell, Figure, per_cent
from pipeline.report.run import Run
from pipeline.report.sections.summary import SUBJECTS, scored_subjects

_PROTOCOLS = {"linear": "linear probe", "knn": "kNN"}  # the first that is there
_RECALLS = 30  # classes whose recall is drawn, the worst
_MATRIX = 24  # classes of the matrix, those of the most mistakes
_WITH_COUNTS = 12  # classes, up to which the matrix has numbers
_PAIRS = 8
_EXAMPLES = 6


@dataclass(frozen=True)
class Pair:
    """Images of one class that were taken for another."""

    words: str
    examples: Sequence[Tile]


@dataclass(frozen=True)
class Classes:
    """What the template shows.

    Attributes:
        reason: why nothing is said of classes; empty where something is.
        protocol: whose answers these are.
        recall: of each class; None where there is none.
        recall_words: which classes are drawn.
        matrix: None where there is none.
        matrix_words: which classes it has.
        pairs: the most confused ones.
        few_labels: None where the labels allow no curve.
    """

    reason: str
    protocol: str = ""
    recall: Figure | None = None
    recall_words: str = ""
    matrix: Figure | None = None
    matrix_words: str = ""
    pairs: Sequence[Pair] = ()
    few_labels: Figure | None = None


def classes(run: Run, album: Album) -> Classes:
    protocol = next((name for name in _PROTOCOLS if len(run.answers(name))), None)
    if protocol is None:
        reasons = run.metrics["evaluate"].get("left_out", {})
        why = reasons.get("linear") or "it takes labelled images in train and in test"
        return Classes(f"Nothing can be said of classes: {why}.")
    recall, recall_words = _recall(run, protocol)
    answers = run.answers(protocol)
    answers = answers[answers["predicted"] != UNLABELLED]
    actual = album.labels[answers["id"].to_numpy()]
    predicted = answers["predicted"].to_numpy(dtype=np.int64)
    matrix, matrix_words = _matrix(run, actual, predicted)
    return Classes(
        "",
        _PROTOCOLS[protocol],
        recall,
        recall_words,
        matrix,
        matrix_words,
        _pairs(run, album, answers["id"].to_numpy(), actual, predicted),
        _few_labels(run),
    )


def _recall(run: Run, protocol: str) -> tuple[Figure | None, str]:
    scores = run.metrics["evaluate"]
    subjects = [name for name in scored_subjects(scores) if "recall" in scores[name].get(protocol, {})]
    if "encoder" not in subjects:
        return None, ""
    of_encoder = scores["encoder"][protocol]["recall"]
    worst_first = sorted(of_encoder, key=lambda name: of_encoder[name])
    rows: list[list[Cell]] = [
        [printable(name), SUBJECTS[subject], scores[subject][protocol]["recall"].get(name)]
        for name in worst_first
        for subject in subjects
    ]
    drawn = [printable(name) for name in worst_first[:_RECALLS]]
    names = [SUBJECTS[subject] for subject in subjects]
    said = ", ".join(f"{printable(name)} {per_cent(of_encoder[name])} %" for name in worst_first[:5])
    chart = charts.recalls(drawn, names)
    words = "The worst stand first."
    if len(drawn) < len(worst_first):
        words = f"The {len(drawn)} worst of {len(worst_first)}; the CSV has all."
    return Figure("recall", ("class", "subject", "recall"), rows, chart, f"The lowest: {said}"), words


def _matrix(run: Run, actual: NDArray[np.int64], predicted: NDArray[np.int64]) -> tuple[Figure | None, str]:
    present = np.unique(np.concatenate([actual, predicted]))
    if len(present) < 2:
        return None, ""
    wrong = actual != predicted
    num_wrong = np.bincount(actual[wrong], minlength=len(run.class_names)) + np.bincount(
        predicted[wrong], minlength=len(run.class_names)
    )
    shown = present
    if len(present) > _MATRIX:
        worst = present[np.argsort(-num_wrong[present], kind="stable")]
        shown = np.sort(worst[:_MATRIX])
    counts = np.zeros((len(run.class_names), len(shown)), dtype=np.int64)
    column = np.full(len(run.class_names), -1)
    column[shown] = np.arange(len(shown))
    drawn = column[predicted] >= 0
    np.add.at(counts, (actual[drawn], column[predicted[drawn]]), 1)
    totals = np.bincount(actual, minlength=len(run.class_names))
    rows: list[list[Cell]] = [
        [
            run.class_names[row],
            run.class_names[shown[place]],
            int(counts[row, place]),
            counts[row, place] / max(1, totals[row]),
        ]
        for row in shown
        for place in range(len(shown))
    ]
    names = [run.class_names[label] for label in shown]
    words = (
        "A row an actual class; the colour is the share of its images, and errors stand beside the diagonal."
    )
    if len(shown) < len(present):
        words += f" Of {len(present)} classes the {len(shown)} of the most errors."
    said = f"Confusion matrix of {len(shown)} classes; {int(wrong.sum())} of {len(actual)} answers are wrong"
    chart = charts.confusion(names, with_counts=len(shown) <= _WITH_COUNTS)
    return Figure("confusion", ("actual", "predicted", "images", "share"), rows, chart, said), words


def _pairs(
    run: Run,
    album: Album,
    ids: NDArray[np.int64],
    actual: NDArray[np.int64],
    predicted: NDArray[np.int64],
) -> list[Pair]:
    wrong = actual != predicted
    counted = Counter(zip(actual[wrong].tolist(), predicted[wrong].tolist(), strict=True))
    ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:_PAIRS]
    pairs = []
    for (is_, said), count in ordered:
        total = int((actual == is_).sum())
        examples = ids[(actual == is_) & (predicted == said)][:_EXAMPLES]
        words = f"{run.class_names[is_]} taken for {run.class_names[said]}: {count:,} of {total:,}"
        pairs.append(Pair(words, [album.tile(int(id_), "") for id_ in examples]))
    return pairs


def _few_labels(run: Run) -> Figure | None:
    table = run.few_labels
    if table is None or len(table) < 2:
        return None
    subjects = [name for name in SUBJECTS if name in set(table["subject"])]
    rows: list[list[Cell]] = [
        [SUBJECTS[row["subject"]], int(row["num_images"]), row["mean"], row["low"], row["high"]]
        for row in table.to_dict("records")
        if row["subject"] in SUBJECTS
    ]
    names = [SUBJECTS[subject] for subject in subjects]
    said = "; ".join(
        f"{name} from {per_cent(of[0])} to {per_cent(of[-1])} %"
        for name in names
        if (of := [float(row[2]) for row in rows if row[0] == name and row[2] is not None])
    )
    columns = ("subject", "num_images", "mean", "low", "high")
    return Figure("few-labels", columns, rows, charts.few_labels(names), f"Accuracy with few labels: {said}")
