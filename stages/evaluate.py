"""DVC stage `evaluate`: the encoder, the start that it began from and the pixels, scored side by side."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.artifacts import Artifacts, read_json, write_json
from pipeline.atomic import atomic_folder
from pipeline.errors import plain_errors
from pipeline.evaluation.coverage import PROTOCOLS, label_figures, left_out, remarks
from pipeline.evaluation.labelled import Labelled, Outcomes, Scores
from pipeline.evaluation.outcomes import gains, write_outcomes
from pipeline.evaluation.pixels import is_grey, pixel_side, small_pixels
from pipeline.evaluation.protocols import evaluate
from pipeline.evaluation.scored import Scored, scored_images
from pipeline.evaluation.spread import spread
from pipeline.evaluation.verdict import Trained, verdict
from pipeline.params.evaluate import Evaluate
from pipeline.params.reader import load_params
from pipeline.provenance.loaded import Loaded
from pipeline.training.hardware.machine import choose_device, make_deterministic

Features = NDArray[np.float32]


def main() -> None:
    loaded = Loaded("evaluate", section="evaluate")
    params = load_params().evaluate
    data = Artifacts()
    data.check_embeddings()
    trained = Trained.of(read_json(data.metrics("pretrain"), made_by="pretrain"))
    device = choose_device(params.device, "evaluate.device")
    make_deterministic(params.linear.seed)
    manifest = data.read_manifest()
    scored = scored_images(manifest)
    started = time.perf_counter()
    with atomic_folder(data.evaluation, loaded.check) as folder:
        figures, outcomes = score(data, scored, params, device)
        if "start" not in figures:  # one encoder
            figures["start"] = figures["encoder"]
            outcomes |= {"start": outcomes["encoder"]} if outcomes else {}
        test_ids = manifest.loc[manifest["split"] == "test", "id"].to_numpy()[scored.rows["test"]]
        write_outcomes(folder / data.outcomes.name, outcomes, test_ids)
    over_start = gains(outcomes) if outcomes else {}
    if over_start:
        figures["over_start"] = {name: gain.figures("top1") for name, gain in over_start.items()}
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


def score(
    data: Artifacts, scored: Scored, params: Evaluate, device: torch.device
) -> tuple[dict[str, Any], dict[str, dict[str, Outcomes]]]:
    """Every subject by every protocol that the labels allow: figures for the metrics, and outcomes."""
    class_names = data.read_collection()["class_names"]
    train, test = scored.labels["train"], scored.labels["test"]
    figures, can_score = say_what_is_left_out(train, test, class_names)
    outcomes: dict[str, dict[str, Outcomes]] = {}
    for subject, features in subjects(data, scored).items():
        scores: dict[str, Scores] = {}
        if can_score:
            seen, asked = (
                Labelled(features(split, scored.rows[split]), scored.labels[split])
                for split in ("train", "test")
            )
            scores, outcomes[subject] = evaluate(seen, asked, class_names, params, device)
            print(one_line(subject, scores), flush=True)
        figures[subject] = scores | {"spread": spread(features("train", scored.sample))}
    return figures, outcomes


def subjects(data: Artifacts, scored: Scored) -> dict[str, Callable[[str, NDArray[np.int64]], Features]]:
    """What is scored: the features of some of the scored rows of a split, float32 [len(rows), D].

    Not the start where the encoder is the start.
    """
    splits = [split for split in ("train", "test") if split in data.splits()]
    grey = all(is_grey(data.read_images(split)) for split in splits)
    side = pixel_side(sum(len(labels) for labels in scored.labels.values()))

    def start(split: str, rows: NDArray[np.int64]) -> Features:
        embedded = np.searchsorted(scored.features_of(split), rows)
        return data.read_embeddings(split, of_start=True)[embedded]

    found = {
        "encoder": lambda split, rows: data.read_embeddings(split)[rows],
        "start": start,
        "pixels": lambda split, rows: small_pixels(data.read_images(split), rows, grey=grey, largest=side),
    }
    if not data.start_embeddings.exists():
        del found["start"]
    return found


def say_what_is_left_out(
    train: NDArray[np.int64], test: NDArray[np.int64], class_names: list[str]
) -> tuple[dict[str, Any], bool]:
    """Prints what the labels do not allow.

    Returns:
        What stands beside the subjects, and whether any protocol is left.
    """
    without = left_out(train, test)
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


if __name__ == "__main__":
    with plain_errors():
        main()
