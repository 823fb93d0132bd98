"""DVC stage `evaluate`: the encoder, the start that it began from and the pixels, scored side by side."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pipeline.arrays import Picked, Stacked
from pipeline.artifacts import UNLABELLED, Artifacts, read_json, write_json
from pipeline.atomic import atomic_folder
from pipeline.encoder.finetuned import FinetuneFolder
from pipeline.errors import plain_errors
from pipeline.evaluation.coverage import PROTOCOLS, label_figures, left_out, remarks
from pipeline.evaluation.findings.collection import (
    contents_of,
    find_faults,
    firsts_of,
    leaked_ids,
    of_other_contents,
)
from pipeline.evaluation.findings.label_errors import label_errors
from pipeline.evaluation.findings.table import Finding, counts, in_words, write_findings
from pipeline.evaluation.label_free.hubness import hubness
from pipeline.evaluation.label_free.spread import is_collapsed, spread
from pipeline.evaluation.label_free.views import view_figures
from pipeline.evaluation.labelled import Labelled, Outcomes, Scores
from pipeline.evaluation.outcomes import gains, write_confusion, write_outcomes
from pipeline.evaluation.pixels import is_grey, pixel_side, small_pixels
from pipeline.evaluation.probes.few_labels import curves
from pipeline.evaluation.protocols import evaluate
from pipeline.evaluation.scored import Scored, scored_images
from pipeline.evaluation.verdict import Trained, verdict
from pipeline.params.evaluate import Evaluate
from pipeline.params.reader import load_params
from pipeline.provenance.loaded import Loaded
from pipeline.search.index_folder import IndexFolder
from pipeline.search.neighbors import Neighbors, neighbors_of_all, new_array
from pipeline.training.hardware.machine import choose_device, make_deterministic

_NEIGHBORS = 10

Features = NDArray[np.float32]


def main() -> None:
    loaded = Loaded("evaluate", section="evaluate")
    params = load_params().evaluate
    data = Artifacts()
    data.check_embeddings()
    trained = Trained.of(read_json(data.metrics("pretrain"), made_by="pretrain"))
    device = choose_device(params.device, "evaluate.device")
    make_deterministic(params.linear.seed)
    started = time.perf_counter()
    with (
        atomic_folder(data.evaluation, loaded.check) as folder,
        tempfile.TemporaryDirectory(dir=folder) as scratch,
    ):
        figures, over_start = score_all(data, params, device, folder, Path(scratch))
    write_json(data.metrics("evaluate"), figures)
    write_json(
        data.speed("evaluate"),
        {
            "seconds": round(time.perf_counter() - started, 2),
            "device": device.type,
            "torch": torch.__version__,
        },
    )
    print(verdict(figures["encoder"].get("knn"), over_start.get("knn"), trained), flush=True)


def score_all(
    data: Artifacts, params: Evaluate, device: torch.device, folder: Path, scratch: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures for the metrics, and the gains over the start; every table goes into the folder.

    The neighbours of all images lie in the folder scratch, not in memory."""
    manifest = data.read_manifest(["split", "label"])
    scored = scored_images(manifest)
    contents = contents_of(data.read_digests())
    every, distinct = nearest_others(data, contents, scratch)
    others = of_other_contents(distinct.ids, contents, new_array(scratch, np.int32, distinct.ids.shape))
    is_train, is_test = ((manifest["split"] == split).to_numpy(bool) for split in ("train", "test"))
    faults = find_faults(others, distinct.cosines, is_train, is_test, contents, picture_of(data))
    test_ids = np.flatnonzero(is_test)[scored.rows["test"]]
    leaked = np.isin(test_ids, leaked_ids(faults, params.findings))
    figures, outcomes = score(data, scored, contents, leaked, params, device)
    if "start" not in figures:  # one encoder
        figures["start"] = dict(figures["encoder"])
        outcomes |= {"start": outcomes["encoder"]} if outcomes else {}
    figures["encoder"]["hubness"] = hubness(every.ids)
    labels = np.where(is_train | is_test, manifest["label"].to_numpy(np.int64), UNLABELLED)
    found = [*faults, *doubted_labels(data, labels, others, figures, params, device)]
    figures["findings"] = counts(found, params.findings)
    print(f"evaluate: {in_words(figures['findings'])}: data/evaluation/findings.parquet", flush=True)
    over_start = gains(outcomes) if outcomes else {}
    if over_start:
        figures["over_start"] = {name: gain.figures("top1") for name, gain in over_start.items()}
    write_findings(folder / data.findings.name, found)
    write_outcomes(folder / data.outcomes.name, outcomes, test_ids)
    class_names = data.read_collection()["class_names"]
    write_confusion(folder / "confusion.tsv", outcomes, scored.labels["test"], class_names)
    curve_rows = curves(figures, len(scored.labels["train"]), list(outcomes))
    columns = ["subject", "num_images", "mean", "low", "high"]
    pd.DataFrame(curve_rows, columns=columns).to_csv(folder / "few_labels.tsv", sep="\t", index=False)
    return figures, over_start


def nearest_others(
    data: Artifacts, contents: NDArray[np.int64], scratch: Path
) -> tuple[Neighbors, Neighbors]:
    """Of every image among all, and among the first ones of their content, as the index finds them.

    Raises:
        UserError: the index is not of these embeddings, or damaged.
    """
    folder = IndexFolder(data.index)
    card = folder.read_card()
    folder.check_made_of(card, data)
    embeddings = [data.read_embeddings(split) for split in data.splits()]
    asked = folder.read_index(card, every_id=True), card.search_parameters, embeddings, _NEIGHBORS, scratch
    every = neighbors_of_all(*asked)
    firsts = np.isin(np.arange(len(contents)), firsts_of(contents))
    if firsts.all():
        return every, every
    try:
        return every, neighbors_of_all(*asked, among=firsts)
    except RuntimeError:
        print("evaluate: an index of this kind cannot leave copies out: what is like them may be missed")
        return every, every


def picture_of(data: Artifacts) -> Callable[[int], NDArray[np.uint8]]:
    """Gives the pixels of an id, uint8 [H, W, 3]."""
    images = Stacked([data.read_images(split) for split in data.splits()])
    return lambda image_id: images[np.array([image_id])][0]


def score(
    data: Artifacts,
    scored: Scored,
    contents: NDArray[np.int64],
    leaked: NDArray[np.bool_],
    params: Evaluate,
    device: torch.device,
) -> tuple[dict[str, Any], dict[str, dict[str, Outcomes]]]:
    """Every subject by every protocol that the labels allow: figures for the metrics, and outcomes."""
    class_names = data.read_collection()["class_names"]
    same = contents_of_splits(data, scored, contents)
    figures, can_score = say_what_is_left_out(scored, same, class_names)
    outcomes: dict[str, dict[str, Outcomes]] = {}
    for name, subject in subjects(data, scored).items():
        scores: dict[str, Scores] = {}
        if can_score:
            seen, asked = (
                Labelled(subject.features(split, scored.rows[split]), scored.labels[split], same[split])
                for split in ("train", "test")
            )
            asked = replace(asked, leaked=leaked)
            scores, outcomes[name] = evaluate(seen, asked, class_names, params, device)
            print(one_line(name, scores), flush=True)
        lies = spread(subject.features("train", scored.sample))
        collapsed = is_collapsed(lies["uniformity"], len(scored.sample))
        if collapsed:
            print(f"{name}: collapsed: all images are nearly one point to it", flush=True)
        if subject.of_views is not None:
            views = view_figures(subject.features("train", scored.viewed), subject.of_views())
            scores["views"] = {**views}
        figures[name] = scores | {"spread": lies | {"collapsed": collapsed}}
    return figures, outcomes


@dataclass(frozen=True)
class Subject:
    """What is scored.

    Attributes:
        features: of some of the scored rows of a split, float32 [len(rows), D].
        of_views: of the augmented views, [M, D]; None where there are no embeddings of them.
    """

    features: Callable[[str, NDArray[np.int64]], Features]
    of_views: Callable[[], Features] | None


def subjects(data: Artifacts, scored: Scored) -> dict[str, Subject]:
    """Those that are scored, by name; not the start where the encoder is the start."""
    splits = [split for split in ("train", "test") if split in data.splits()]
    grey = all(is_grey(data.read_images(split)) for split in splits)
    side = pixel_side(sum(len(labels) for labels in scored.labels.values()))

    def start(split: str, rows: NDArray[np.int64]) -> Features:
        embedded = np.searchsorted(scored.features_of(split), rows)
        return data.read_embeddings(split, of_start=True)[embedded]

    def pixels(images: NDArray[np.uint8], rows: NDArray[np.int64]) -> Features:
        return small_pixels(images, rows, grey=grey, largest=side)

    found = {
        "encoder": Subject(
            lambda split, rows: data.read_embeddings(split)[rows], lambda: data.read_embeddings("augmented")
        ),
        "start": Subject(start, lambda: data.read_embeddings("augmented", of_start=True)),
        "pixels": Subject(
            lambda split, rows: pixels(data.read_images(split), rows),
            lambda: pixels(data.read_augmented(), np.arange(len(scored.viewed))),
        ),
    }
    if not data.view_embeddings.exists():
        found = {name: replace(subject, of_views=None) for name, subject in found.items()}
    if not data.start_embeddings.exists():
        del found["start"]
    finetuned = FinetuneFolder(data.finetune)
    if finetuned.is_on:
        finetuned.check(data)
        found["finetuned"] = Subject(lambda split, rows: finetuned.features(split, rows, scored), None)
    return found


def contents_of_splits(
    data: Artifacts, scored: Scored, contents: NDArray[np.int64]
) -> dict[str, NDArray[np.int64]]:
    """The contents of the scored rows, by split."""
    num_images = data.read_collection()["num_images"]
    first, found = 0, {}
    for split in data.splits():
        if split in scored.rows:
            found[split] = contents[first + scored.rows[split]]
        first += num_images[split]
    return {"train": np.empty(0, np.int64), "test": np.empty(0, np.int64)} | found


def say_what_is_left_out(
    scored: Scored, contents: dict[str, NDArray[np.int64]], class_names: list[str]
) -> tuple[dict[str, Any], bool]:
    """Prints what the labels do not allow.

    Returns:
        What stands beside the subjects, and whether any protocol is left.
    """
    train, test = scored.labels["train"], scored.labels["test"]
    without = left_out(train, test, np.concatenate([contents["train"], contents["test"]]))
    for reason in dict.fromkeys(without.values()):
        protocols = ", ".join(protocol for protocol in without if without[protocol] == reason)
        print(f"evaluate: {protocols} left out: {reason}", flush=True)
    figures: dict[str, Any] = {}
    if len(train) and len(test):
        for remark in remarks(train, test, class_names):
            print(f"evaluate: {remark}", flush=True)
        figures = label_figures(train, test)
        share = figures["majority_share"]
        print(
            f"evaluate: always the commonest class is right about {share:.4f} of the test images", flush=True
        )
    return figures | ({"left_out": without} if without else {}), len(without) < len(PROTOCOLS)


def one_line(subject: str, scores: dict[str, Scores]) -> str:
    """Top-1 of a subject, and what it is when each class counts alike."""
    shown = [
        f"{name} {scores[protocol]['top1']:.4f} (balanced {scores[protocol]['balanced_accuracy']:.4f})"
        for name, protocol in (("kNN", "knn"), ("linear", "linear"), ("nearest image", "retrieval"))
        if protocol in scores
    ]
    return f"{subject}: {', '.join(shown)}"


def doubted_labels(
    data: Artifacts,
    labels: NDArray[np.int64],
    neighbors: NDArray[np.int32],
    figures: dict[str, Any],
    params: Evaluate,
    device: torch.device,
) -> list[Finding]:
    """Labels, -1 for none, that neighbours and a classifier would not have given."""
    strengths = sorted(params.linear.C)  # the middle one, where no probe has chosen
    C = figures["encoder"].get("linear", {}).get("C", strengths[len(strengths) // 2])
    ids = np.flatnonzero(labels != UNLABELLED)
    return label_errors(
        Picked(Stacked([data.read_embeddings(split) for split in data.splits()]), ids),
        labels[ids],
        ids,
        neighbors,
        data.read_collection()["class_names"],
        C,
        params.linear.max_iterations,
        device,
    )


if __name__ == "__main__":
    with plain_errors():
        main()
