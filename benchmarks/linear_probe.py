"""The linear probes of one subject, as stage `evaluate` fits them, beside scikit-learn's.

    python -m benchmarks.linear_probe --archive cifar10.tar
    python -m benchmarks.linear_probe --archive cifar10.tar --images 60000 --features 2880 --ours-alone

The features are random: the positive part of so many random projections of the images' pixels. Each side
scores four probes (all labels; 1, 5 and 10 % in five draws), on the same draws and the same validation
parts, with the params of params.yaml; scikit-learn does so one fit at a time, in float64. Printed are the
seconds of each side, top-1 and C of the probe with all labels and mean top-1 of the others, and the most
memory that the process held by then.
"""

import argparse
import io
import resource
import tarfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.errors import plain_errors
from pipeline.evaluation.coverage import SHARES
from pipeline.evaluation.labelled import Labelled
from pipeline.evaluation.probes.draws import split_stratified
from pipeline.evaluation.probes.few_labels import score_few_labels
from pipeline.evaluation.probes.linear_probe import score_linear
from pipeline.params.evaluate import LinearProbe
from pipeline.params.reader import load_params
from pipeline.training.hardware.machine import choose_device

TEST_SHARE = 6  # one image of so many is scored, as in CIFAR-10
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--archive", type=Path, required=True, help="a tar of <split>/<class>/*")
    parser.add_argument("--images", type=int, default=4316, help="to learn from and to score on")
    parser.add_argument("--features", type=int, default=1280)
    parser.add_argument("--ours-alone", action="store_true", help="leave scikit-learn out")
    args = parser.parse_args()
    params = load_params().evaluate
    train, test, class_names = draw(args.archive, args.images, args.features)
    device = choose_device(params.device, "evaluate.device")

    def ours() -> list[str]:
        all_labels, _ = score_linear(train, test, class_names, params.linear, device)
        few = [score_few_labels(train, test, protocol, params.linear, device) for protocol in SHARES]
        return [f"{all_labels['top1']:.4f} (C {all_labels['C']})", *(f"{each['mean']:.4f}" for each in few)]

    def theirs() -> list[str]:
        top1, C = score_scikit_learn(train, test, params.linear, params.linear.seed)
        means = []
        for share in SHARES.values():
            draws = [
                split_stratified(train.labels, round(share * len(train.labels)), seed)[0]
                for seed in params.linear.few_label_seeds
            ]
            few = [Labelled(train.features[rows], train.labels[rows]) for rows in draws]
            scores = [
                score_scikit_learn(drawn, test, params.linear, seed)[0]
                for drawn, seed in zip(few, params.linear.few_label_seeds, strict=True)
            ]
            means.append(f"{np.mean(scores):.4f}")
        return [f"{top1:.4f} (C {C})", *means]

    num_rows = f"{len(train.labels):,} and {len(test.labels):,} of {args.features:,} features"
    print(f"{num_rows}; top-1 with all labels, {', '.join(SHARES)}", flush=True)
    sides: dict[str, Callable[[], list[str]]] = {"ours": ours}
    if not args.ours_alone:
        sides["scikit-learn"] = theirs
    seconds = {}
    for side, score in sides.items():
        started = time.perf_counter()
        scores = score()
        seconds[side] = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(f"{side}: {seconds[side]:.1f} s, {', '.join(scores)}, {peak:,.0f} MiB at most", flush=True)
    if len(seconds) == 2:
        print(f"{seconds['scikit-learn'] / seconds['ours']:.1f} times as fast")


def draw(archive: Path, num_images: int, num_features: int) -> tuple[Labelled, Labelled, list[str]]:
    """Images of an archive, their pixels projected, in two parts with as much of each class."""
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.isfile()]
        names = sorted({Path(member.name).parent.name for member in members})
        rows = np.sort(np.random.default_rng(SEED).permutation(len(members))[:num_images])
        labels = np.array([names.index(Path(members[row].name).parent.name) for row in rows])
        pixels = np.stack([read_pixels(tar, members[row]) for row in rows])
    projection = np.random.default_rng(SEED).standard_normal((pixels.shape[1], num_features))
    features = np.maximum(pixels @ projection.astype(np.float32), 0)
    parts = split_stratified(labels, len(labels) - len(labels) // TEST_SHARE, SEED)
    train, test = (Labelled(features[part], labels[part]) for part in parts)
    return train, test, names


def read_pixels(tar: tarfile.TarFile, member: tarfile.TarInfo) -> NDArray[np.float32]:
    """One image, from -1 to 1, as float32 [D]."""
    file = tar.extractfile(member)
    assert file is not None
    image = Image.open(io.BytesIO(file.read())).convert("RGB").resize((32, 32), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float32).reshape(-1) / 127.5 - 1


def score_scikit_learn(
    train: Labelled, test: Labelled, params: LinearProbe, seed: int
) -> tuple[float, float]:
    """Top-1 and C by one fit after another, C chosen on the validation part that ours has too."""
    num_validation = max(len(np.unique(train.labels)), round(params.validation_fraction * len(train.labels)))
    fit, validation = split_stratified(train.labels, len(train.labels) - num_validation, seed)
    strengths = sorted(params.C)
    right = [
        fit_scikit_learn(train.features[fit], train.labels[fit], C, params.max_iterations).score(
            train.features[validation], train.labels[validation]
        )
        for C in strengths
    ]
    C = strengths[int(np.argmax(right))]
    probe = fit_scikit_learn(train.features, train.labels, C, params.max_iterations)
    return float(probe.score(test.features, test.labels)), C


def fit_scikit_learn(
    features: NDArray[np.float32], labels: NDArray[np.int64], C: float, max_iterations: int
) -> Pipeline:
    """Standardised, then L-BFGS in float64."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=max_iterations))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return probe.fit(features.astype(np.float64), labels)


if __name__ == "__main__":
    with plain_errors():
        main()
