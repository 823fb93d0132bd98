"""DVC stage `evaluate`: the encoder, the untrained network and the pixels, scored side by side."""

import time
from collections.abc import Callable

import numpy as np
import sklearn
from numpy.typing import NDArray

from pipeline.artifacts import UNLABELLED, Artifacts, write_json
from pipeline.errors import plain_errors
from pipeline.evaluation.labelled import Labelled, Scores
from pipeline.evaluation.pixels import is_grey, pixel_side, small_pixels
from pipeline.evaluation.protocols import evaluate
from pipeline.evaluation.spread import spread
from pipeline.params.loaded import Loaded
from pipeline.params.reader import load_params

_SPREAD_SAMPLE = 2000  # images; effective rank and uniformity compare every pair


def main() -> None:
    loaded = Loaded("evaluate", section="evaluate")
    params = load_params().evaluate
    data = Artifacts()
    manifest = data.read_manifest()
    labels = {
        split: manifest.loc[manifest["split"] == split, "label"].to_numpy(dtype=np.int64)
        for split in data.splits()
    }
    grey = all(is_grey(data.read_images(split)) for split in labels)
    subjects: dict[str, Callable[[str, NDArray[np.int64]], NDArray[np.float32]]] = {
        "encoder": lambda split, rows: data.read_embeddings(split)[rows],
        "untrained": lambda split, rows: data.read_embeddings(split, untrained=True)[rows],
        "pixels": lambda split, rows: small_pixels(data.read_images(split), rows, grey=grey, largest=side),
    }
    known = {split: np.flatnonzero(of_split != UNLABELLED) for split, of_split in labels.items()}
    side = pixel_side(sum(len(rows) for rows in known.values()))
    can_score = (
        "test" in labels and len(known["test"]) > 0 and len(np.unique(labels["train"][known["train"]])) > 1
    )
    if not can_score:
        print("evaluate: no labels to score with: kNN, probes and retrieval are left out", flush=True)
    sample = np.random.default_rng(params.linear.seed).permutation(len(labels["train"]))[:_SPREAD_SAMPLE]

    started = time.perf_counter()
    scores: dict[str, dict[str, Scores]] = {}
    for subject, features in subjects.items():
        scores[subject] = {}
        if can_score:
            train, test = (
                Labelled(features(split, known[split]), labels[split][known[split]])
                for split in ("train", "test")
            )
            scores[subject] = evaluate(train, test, params)
            knn, linear = scores[subject]["knn"]["top1"], scores[subject]["linear"]["top1"]
            print(f"{subject}: kNN {knn:.4f}, linear {linear:.4f}", flush=True)
        scores[subject]["spread"] = spread(features("train", np.sort(sample)))
    loaded.check()
    write_json(data.metrics("evaluate"), scores)
    write_json(
        data.speed("evaluate"),
        {"seconds": round(time.perf_counter() - started, 2), "scikit_learn": sklearn.__version__},
    )


if __name__ == "__main__":
    with plain_errors():
        main()
