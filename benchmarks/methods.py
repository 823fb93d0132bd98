"""The three methods on the default collection, over seeds and in both precisions.

    python -m benchmarks.methods -o methods.jsonl
    python -m benchmarks.methods -o trials.jsonl --held-out --methods simsiam -S pretrain.simsiam.lr=0.2

Each run trains params.yaml's encoder and scores it with every protocol of `pipeline/evaluation/`. Printed
is a line a method and precision: mean and standard deviation (ddof 1) over the seeds, and the seconds of
`train`. Scored are the test images, by which nothing may be chosen. For choosing, `--held-out` sets a fifth
of the training images aside, which are then neither trained on nor learned from by the probe, and scores on
those.

A run is a line of JSON in the file that `-o` names, written when it ends. What stands there already, with
the same params, images and code, is not run again: after Ctrl-C the same command goes on.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from benchmarks.cifar10 import features_of
from models.methods import METHODS
from pipeline.artifacts import Artifacts
from pipeline.collection.ingest import ingest
from pipeline.collection.sources.table import SOURCES
from pipeline.errors import plain_errors
from pipeline.evaluation.labelled import Labelled
from pipeline.evaluation.pixels import is_grey, pixel_side, small_pixels
from pipeline.evaluation.protocols import evaluate
from pipeline.params.pretrain import Pretrain
from pipeline.params.reader import PARAMS_FILE, Params, check_params, parse_yaml, read_text
from pipeline.recipes import lay_over, parse_setting
from pipeline.training.hardware.machine import choose_device
from pipeline.training.loop import train
from pipeline.training.resuming.run_key import run_key
from pipeline.training.weights.start import start_sha256

HELD_OUT_FRACTION = 0.2
SEEDS = (0, 1, 2)
PRECISIONS = ("float32", "bfloat16")  # those of a CPU
PIXELS = "pixels"
# protocol and figure of each column; a few-label one is the mean over its draws
COLUMNS = {
    "kNN": ("knn", "top1"),
    "linear": ("linear", "top1"),
    "10 % labels": ("linear_10pct", "mean"),
    "1 % labels": ("linear_1pct", "mean"),
    "precision@10": ("retrieval", "precision_at_10"),
    "mAP": ("retrieval", "map"),
}

Split = tuple[NDArray[np.uint8], NDArray[np.int64]]  # images [N, H, W, 3] and their classes [N]
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="a line of JSON a run, added to")
    parser.add_argument("--held-out", action="store_true", help="score on a fifth of the training images")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--precisions", nargs="+", choices=choices("precision"), default=list(PRECISIONS))
    parser.add_argument("-S", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()

    runs = list(product(args.methods, args.precisions, args.seeds))
    params = [with_settings([*args.settings, *chosen(*run)]) for run in runs]
    collection, class_names, train_split, test_split = read_collection(params[0])
    if args.held_out:
        train_split, test_split = hold_out(train_split)
    rows = [score_pixels(train_split, test_split, class_names, params[0])]
    for number, (run, run_params) in enumerate(zip(runs, params, strict=True), start=1):
        what = dict(zip(("method", "precision", "seed"), run, strict=True)) | {"settings": args.settings}
        # the images that are trained on are told apart by their labels, which the key takes in
        weights_sha256 = start_sha256(run_params.pretrain.backbone)
        key = run_key(run_params.pretrain, collection, train_split[1], weights_sha256)
        known = [row for row in read_rows(args.output) if row["key"] == key]
        if not known:
            print(f"run {number} of {len(runs)}: {' '.join(map(str, run))}", flush=True)
            known = [what | {"key": key} | train_and_score(train_split, test_split, class_names, run_params)]
            add_row(args.output, known[0])
        rows.append(what | known[0])
    part = "a held-out fifth of the training images" if args.held_out else "the test images"
    print("\n".join([f"{len(test_split[0])} images, {part}; mean and deviation, per cent", *table(rows)]))


def choices(key: str) -> tuple[str, ...]:
    """The words that a key of section `pretrain` may have."""
    return get_args(Pretrain.model_fields[key].annotation)


def chosen(method: str, precision: str, seed: int) -> list[str]:
    """The settings that make params.yaml one of the runs."""
    return [f"pretrain.method={method}", f"pretrain.precision={precision}", f"pretrain.seed={seed}"]


def with_settings(settings: Sequence[str]) -> Params:
    """params.yaml under `KEY=VALUE` settings, later ones on top."""
    text = lay_over(read_text(PARAMS_FILE), list(map(parse_setting, settings)))
    return check_params(parse_yaml(text, PARAMS_FILE), PARAMS_FILE)


def read_collection(params: Params) -> tuple[dict[str, Any], tuple[str, ...], Split, Split]:
    """What tells the collection from another, its classes, its images to learn from and to score on."""
    with tempfile.TemporaryDirectory() as scratch:
        data = Artifacts(Path(scratch))
        data.images.mkdir(parents=True)
        collection = SOURCES[params.dataset.name](params.dataset)
        ingested = ingest(collection, params.dataset, data.images)
        splits = []
        for split in ("train", "test"):
            labels = [image.entry.label for image in ingested.accepted if image.entry.split == split]
            splits.append((np.array(data.read_images(split)), np.array(labels)))
    identity = {"sha256": [image.sha256 for image in ingested.accepted]} | params.dataset.model_dump()
    return identity, collection.class_names, splits[0], splits[1]


def hold_out(split: Split) -> tuple[Split, Split]:
    """Four fifths to learn from and one to score on, each with its share of every class; always the same."""
    images, labels = split
    rows = np.arange(len(labels))
    parts = train_test_split(rows, test_size=HELD_OUT_FRACTION, stratify=labels, random_state=0)
    learned, scored = ((images[part], labels[part]) for part in map(np.sort, parts))
    return learned, scored


def train_and_score(train_split: Split, test_split: Split, class_names: Sequence[str], params: Params) -> Row:
    """One run: every protocol's figures on the features as the encoder ships them, and what it took."""
    started = time.perf_counter()
    run = train(*train_split, params.pretrain)
    seconds = time.perf_counter() - started
    bank, queries = (
        Labelled(features_of(run.backbone, run, images, params), labels)
        for images, labels in (train_split, test_split)
    )
    return {
        "scores": evaluate(bank, queries, class_names, params.evaluate, device_of(params))[0],
        "seconds": round(seconds, 1),
        "views_per_s": round(run.views_per_s, 1),
        "last_epoch": run.history[-1],
    }


def score_pixels(train_split: Split, test_split: Split, class_names: Sequence[str], params: Params) -> Row:
    """What costs nothing, to compare with."""
    grey = is_grey(train_split[0])
    side = pixel_side(len(train_split[0]) + len(test_split[0]))
    bank, queries = (
        Labelled(small_pixels(images, np.arange(len(images)), grey=grey, largest=side), labels)
        for images, labels in (train_split, test_split)
    )
    scores, _ = evaluate(bank, queries, class_names, params.evaluate, device_of(params))
    return {"method": PIXELS, "precision": "", "scores": scores}


def device_of(params: Params) -> torch.device:
    """What the probes are fitted on."""
    return choose_device(params.evaluate.device, "evaluate.device")


def read_rows(path: Path) -> list[Row]:
    """The runs of a file; a line that was cut off is none."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def add_row(path: Path, row: Row) -> None:
    """One line more; a line before it that was cut off is ended first."""
    cut_off = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * cut_off + json.dumps(row) + "\n")


def table(rows: Iterable[Row]) -> list[str]:
    """A line a method and precision, `mean ± deviation` (ddof 1) over its runs, as Markdown."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["precision"]), []).append(row)
    lines = [
        "| method | precision | runs | " + " | ".join(COLUMNS) + " | seconds |",
        "|---" * (len(COLUMNS) + 4) + "|",
    ]
    for (method, precision), runs in groups.items():
        cells = [
            mean_and_deviation([100 * run["scores"][protocol][figure] for run in runs])
            for protocol, figure in COLUMNS.values()
            if protocol in runs[0]["scores"]
        ]
        seconds = [run["seconds"] for run in runs if "seconds" in run]
        cells.append(mean_and_deviation(seconds) if seconds else "")
        lines.append(f"| {method} | {precision} | {len(runs)} | " + " | ".join(cells) + " |")
    return lines


def mean_and_deviation(values: Sequence[float]) -> str:
    """`96.3 ± 0.2`; of one value its own."""
    mean = f"{np.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.1f}"


if __name__ == "__main__":
    with plain_errors():
        main()
