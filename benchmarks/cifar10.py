"""A recipe trained and scored on CIFAR-10, as one command.

    python -m benchmarks.cifar10 --archive cifar10.tar cifar10-short
    python -m benchmarks.cifar10 --archive cifar10.tar cifar10-short -S pretrain.method=nnclr
    python -m benchmarks.cifar10 --archive cifar10.tar cifar10-short --validate -S pretrain.epochs=3
    python -m benchmarks.cifar10 --archive cifar10.tar simclr-sthalles-cifar10 --images 1024

Printed are the minutes of training (all in all, and of the steps alone) and kNN and linear probe of the
network and of the start, on the features as the encoder ships them. They are scored on the test
images, which nothing was chosen by; with `--validate` on a tenth of the training images, which are then
neither trained on nor learned from by the probe: that is for choosing. `--images` draws so many of each
split: a few steps of a recipe that is too large for this machine.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.backbones import build_backbone
from pipeline.artifacts import Artifacts
from pipeline.collection.ingest import ingest
from pipeline.collection.sources.folder import folder
from pipeline.errors import plain_errors
from pipeline.evaluation.knn import normalize
from pipeline.evaluation.labelled import Labelled
from pipeline.evaluation.probes.draws import split_stratified
from pipeline.evaluation.probes.linear_probe import score_linear
from pipeline.evaluation.protocols import score_knn
from pipeline.params.reader import PARAMS_FILE, Params, check_params, parse_yaml
from pipeline.recipes import DEFAULT, lay_over, parse_setting, read_recipe
from pipeline.training.hardware.machine import choose_device
from pipeline.training.loop import TrainingRun, train
from pipeline.training.monitoring.monitor import extract_features
from pipeline.training.pixels import Images

VALIDATION_SHARE = 10


def recipe_params(recipe: str, settings: list[str], archive: Path) -> Params:
    """The committed params under a recipe and settings, on the archive."""
    source = ["dataset.name=folder", f"dataset.path={archive}"]
    overlays = [read_recipe(DEFAULT), read_recipe(recipe), *map(parse_setting, [*source, *settings])]
    text = lay_over(PARAMS_FILE.read_text(encoding="utf-8"), overlays)
    return check_params(parse_yaml(text, PARAMS_FILE), PARAMS_FILE)


def features_of(
    weights: dict[str, Tensor], run: TrainingRun, images: Images, params: Params
) -> NDArray[np.float32]:
    """What the exported encoder gives: normalised features, float32 [N, D]."""
    chosen = params.pretrain.backbone.architecture()
    backbone = build_backbone(**chosen, image_size=params.dataset.image_size)
    backbone.module.load_state_dict(weights)
    device = choose_device(params.pretrain.device)
    module = backbone.module.to(device).to(memory_format=torch.channels_last)
    mean, std = (
        torch.tensor(values, device=device).view(3, 1, 1)
        for values in (run.statistics.mean, run.statistics.std)
    )
    return normalize(extract_features(module, images, np.arange(len(images)), mean, std))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recipe", help="a name of recipes/")
    parser.add_argument("--archive", type=Path, required=True, help="train/<class>/* and test/<class>/*")
    parser.add_argument("-S", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--validate", action="store_true", help="score on a part of the training images")
    parser.add_argument("--images", type=int, help="of each split, drawn evenly over its classes")
    args = parser.parse_args()
    params = recipe_params(args.recipe, args.settings, args.archive)

    with tempfile.TemporaryDirectory() as scratch:
        data = Artifacts(Path(scratch))
        data.images.mkdir(parents=True)
        collection = folder(params.dataset)
        ingested = ingest(collection, params.dataset, data.images)
        entries = [image.entry for image in ingested.accepted]
        images = {split: np.asarray(data.read_images(split)) for split in ("train", "test")}
        labels = {
            split: np.array([entry.label for entry in entries if entry.split == split]) for split in images
        }
    if args.validate:
        num_learned = len(labels["train"]) - len(labels["train"]) // VALIDATION_SHARE
        rows = split_stratified(labels["train"], num_learned, seed=0)
        images = {split: images["train"][part] for split, part in zip(images, rows, strict=True)}
        labels = {split: labels["train"][part] for split, part in zip(labels, rows, strict=True)}

    if args.images is not None:
        for split, known in labels.items():
            rows, _ = split_stratified(known, args.images, seed=0)
            images[split], labels[split] = images[split][rows], known[rows]

    started = time.perf_counter()
    run = train(images["train"], labels["train"], params.pretrain)
    minutes = (time.perf_counter() - started) / 60
    what = " ".join([args.recipe, *args.settings])
    how = f"{len(images['train'])} images, {run.views_per_s:.0f} views/s, {run.device}, {run.precision}"
    print(f"{what}: {minutes:.1f} min, {run.seconds / 60:.1f} of them steps, {how}", flush=True)
    device = choose_device(params.evaluate.device, "evaluate.device")
    for name, weights in (("trained", run.backbone), ("start", run.start)):
        bank, queries = (
            Labelled(features_of(weights, run, images[split], params), labels[split]) for split in images
        )
        knn = score_knn(bank, queries, collection.class_names, params.evaluate.knn, device)[0]["top1"]
        linear = score_linear(bank, queries, collection.class_names, params.evaluate.linear, device)[0][
            "top1"
        ]
        part = "a held-out tenth of train" if args.validate else "test"
        print(f"{name}: kNN {knn:.4f}, linear {linear:.4f} on {part}", flush=True)


if __name__ == "__main__":
    with plain_errors():
        main()
