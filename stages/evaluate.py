"""DVC stage `evaluate`: the encoder, the untrained network and the pixels, scored side by side."""

import time
from collections.abc import Callable

import numpy as np
import sklearn
from numpy.typing import NDArray

from pipeline.artifacts import UNLABELLED, Artifacts, write_json
from pipeline.errors import plain_errors
from pipeline.evaluate import Labelled, evaluate
from pipeline.params import load_params


def flat_pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The representation that costs nothing: uint8 [N, H, W, 3] to float32 [N, D] in [0, 1].

    Three equal channels count once (a third of the probe's work, and the same cosines).
    """
    grey = bool((images == images[..., :1]).all())
    channels = images[..., :1] if grey else images
    return channels.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def main() -> None:
    params = load_params().evaluate
    data = Artifacts()
    manifest = data.read_manifest()
    subjects: dict[str, Callable[[str], NDArray[np.float32]]] = {
        "encoder": data.read_embeddings,
        "untrained": lambda split: data.read_embeddings(split, untrained=True),
        "pixels": lambda split: flat_pixels(data.read_images(split)),
    }

    def labelled(subject: str, split: str) -> Labelled:
        labels = manifest.loc[manifest["split"] == split, "label"].to_numpy(dtype=np.int64)
        known = labels != UNLABELLED
        return Labelled(subjects[subject](split)[known], labels[known])

    started = time.perf_counter()
    scores = {}
    for subject in subjects:
        scores[subject] = evaluate(labelled(subject, "train"), labelled(subject, "test"), params)
        knn, linear = scores[subject]["knn"]["top1"], scores[subject]["linear"]["top1"]
        print(f"{subject}: kNN {knn:.4f}, linear {linear:.4f}", flush=True)
    write_json(data.metrics("evaluate"), scores)
    write_json(
        data.speed("evaluate"),
        {"seconds": round(time.perf_counter() - started, 2), "scikit_learn": sklearn.__version__},
    )


if __name__ == "__main__":
    with plain_errors():
        main()
