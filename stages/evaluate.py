"""DVC stage `evaluate`: the encoder, the untrained network and the pixels, scored side by side."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.artifacts import Artifacts, write_json
from pipeline.atomic import lock
from pipeline.errors import plain_errors
from pipeline.evaluation.coverage import PROTOCOLS, label_figures, left_out, remarks
from pipeline.evaluation.labelled import Labelled, Scores
from pipeline.evaluation.pixels import is_grey, pixel_side, small_pixels
from pipeline.evaluation.protocols import evaluate
from pipeline.evaluation.scored import Scored, scored_images
from pipeline.evaluation.spread import spread
from pipeline.params.evaluate import Evaluate
from pipeline.params.loaded import Loaded
from pipeline.params.reader import load_params
from pipeline.training.machine import choose_device, make_deterministic

Features = NDArray[np.float32]


def main() -> None:
    loaded = Loaded("evaluate", section="evaluate")
    data = Artifacts()
    with lock(data.metrics("evaluate")):
        score(data, load_params().evaluate, loaded)


def score(data: Artifacts, params: Evaluate, loaded: Loaded) -> None:
    """Every subject by every protocol, to the metrics."""
    data.check_embeddings()
    class_names = data.read_collection()["class_names"]
    device = choose_device(params.device, "evaluate.device")
    make_deterministic(params.linear.seed)
    scored = scored_images(data.read_manifest())
    train, test = scored.labels["train"], scored.labels["test"]
    figures, can_score = say_what_is_left_out(train, test, class_names)

    started = time.perf_counter()
    for subject, features in subjects(data, scored).items():
        scores: dict[str, Scores] = {}
        if can_score:
            seen, asked = (
                Labelled(features(split, scored.rows[split]), scored.labels[split])
                for split in ("train", "test")
            )
            scores = evaluate(seen, asked, class_names, params, device)
            print(one_line(subject, scores), flush=True)
        figures[subject] = scores | {"spread": spread(features("train", scored.sample))}
    loaded.check()
    write_json(data.metrics("evaluate"), figures)
    write_json(
        data.speed("evaluate"),
        {
            "seconds": round(time.perf_counter() - started, 2),
            "device": device.type,
            "torch": torch.__version__,
        },
    )


def subjects(data: Artifacts, scored: Scored) -> dict[str, Callable[[str, NDArray[np.int64]], Features]]:
    """What is scored: the features of some of the scored rows of a split, float32 [len(rows), D]."""
    splits = [split for split in ("train", "test") if split in data.splits()]
    grey = all(is_grey(data.read_images(split)) for split in splits)
    side = pixel_side(sum(len(labels) for labels in scored.labels.values()))

    def untrained(split: str, rows: NDArray[np.int64]) -> Features:
        embedded = np.searchsorted(scored.features_of(split), rows)
        return data.read_embeddings(split, untrained=True)[embedded]

    return {
        "encoder": lambda split, rows: data.read_embeddings(split)[rows],
        "untrained": untrained,
        "pixels": lambda split, rows: small_pixels(data.read_images(split), rows, grey=grey, largest=side),
    }


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
