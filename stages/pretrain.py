"""DVC stage `pretrain`: the backbone learns from the training images, to data/pretrain/."""

import hashlib
import json
import math
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from pipeline.arrays import Stacked
from pipeline.artifacts import SCRATCH, Artifacts, write_json, write_tsv
from pipeline.atomic import atomic_folder
from pipeline.errors import UserError, plain_errors
from pipeline.evaluation.scored import scored_images
from pipeline.params.pretrain import Pretrain
from pipeline.params.reader import load_params
from pipeline.pictures import write_picture
from pipeline.provenance.loaded import Loaded
from pipeline.provenance.recorded import recorded_outputs
from pipeline.training.display.live import LivePlots
from pipeline.training.display.views_picture import draw_views
from pipeline.training.distributed.joining import Seat, check_machine, joined, torchrun_seat
from pipeline.training.distributed.ranks import run_ranks
from pipeline.training.distributed.world import World
from pipeline.training.guards import machine_errors
from pipeline.training.loop import train
from pipeline.training.resuming.checkpoint import Checkpoints
from pipeline.training.resuming.kept_runs import folder_md5, prune
from pipeline.training.resuming.run_key import run_name
from pipeline.training.run import TrainingRun
from pipeline.training.views import view_of_each
from pipeline.training.weights.start import check_start

LIVE = SCRATCH / "live"  # what a person looks at while it runs
CHECKPOINTS = SCRATCH / "checkpoints"


def main() -> None:
    params = load_params().pretrain
    seat = torchrun_seat()
    if seat is None and params.epochs and params.processes > 1:
        check_machine(params, params.processes)
        run_ranks(pretrain, params.processes)
    else:
        pretrain(seat)


def pretrain(seat: Seat | None) -> None:
    """The stage, in one process of a run; None: the only one."""
    loaded = Loaded("pretrain", section="pretrain")
    params = load_params().pretrain
    data = Artifacts()
    with joined(params, seat) as world:
        if world.is_first:
            lead(world, params, data, loaded)
        else:
            follow(world, params, data)


def follow(world: World, params: Pretrain, data: Artifacts) -> None:
    """The training alone, in a process that writes nothing."""
    collection, (images, labels) = data.read_collection(), read_splits(data, params)
    name = run_name(params, collection, labels, check_start(params.backbone, data), world.num_threads)
    check_alike(world, name)
    with machine_errors(params):
        train(images, labels, params, Checkpoints(CHECKPOINTS / name, world), world=world)


def lead(world: World, params: Pretrain, data: Artifacts, loaded: Loaded) -> None:
    """The training, and all that comes of it."""
    collection = data.read_collection()
    images, labels = read_splits(data, params)
    weights_sha256 = check_start(params.backbone, data)
    with atomic_folder(data.pretrain, loaded.check) as folder:
        name = run_name(params, collection, labels, weights_sha256, world.num_threads)
        check_alike(world, name)
        checkpoints = open_checkpoints(name, world)
        started = time.perf_counter()
        with LivePlots(LIVE, tensorboard=params.tensorboard) as plots, machine_errors(params):
            if params.epochs:
                write_picture(draw_views(images, params), LIVE / "views.png")
            run = train(images, labels, params, checkpoints, plots.show, world)
        seconds = time.perf_counter() - started
        # one key: safetensors writes several in an order that changes from run to run
        metadata = {"lookalike": json.dumps(card_of(run, params, collection, weights_sha256))}
        (folder / data.backbone.name).write_bytes(save(run.backbone, metadata))
        (folder / data.start_backbone.name).write_bytes(save(run.start, metadata))
        write_tsv(folder / "history.tsv", run.history)
        viewed = data.read_images("train")[scored_images(data.read_manifest(["split", "label"])).viewed]
        np.save(folder / data.augmented.name, view_of_each(viewed, params.views, params.seed))
    write_json(data.metrics("pretrain"), figures_of(run))
    write_json(
        data.speed("pretrain"),
        {
            "seconds": round(seconds, 2),
            "views_per_s": round(run.views_per_s, 1),
            "device": run.device,
            "precision": run.precision,
            "processes": world.size,
            "num_threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    )
    checkpoints.finish(folder_md5(data.pretrain))


def read_splits(data: Artifacts, params: Pretrain) -> tuple[Stacked, NDArray[np.int64]]:
    """The images that are learned from, uint8 [N, H, W, 3], and their labels, [N].

    Raises:
        UserError: the collection has none of the splits that the params name.
    """
    splits = [split for split in data.splits() if split in params.splits]
    if not splits:
        raise UserError(
            f"params.yaml: pretrain.splits: the collection has {', '.join(data.splits())}, none of "
            f"{', '.join(params.splits)}: name one that it has"
        )
    manifest = data.read_manifest(["split", "label"])
    labels = manifest.loc[manifest["split"].isin(splits), "label"].to_numpy(dtype=np.int64)
    return Stacked([data.read_images(split) for split in splits]), labels


def check_alike(world: World, name: str) -> None:
    """Holds that all processes train the run of this name.

    Raises:
        UserError: this one would train another than the first.
    """
    if name != world.first(name):
        raise UserError(
            f"process {world.rank + 1} of {world.size} has other params, images, code or another kind of "
            "machine than the first: give all machines the same project and data"
        )


def open_checkpoints(name: str, world: World) -> Checkpoints:
    """Those of the run of this name; those that nothing goes on from are removed."""
    checkpoints = Checkpoints(CHECKPOINTS / name, world)
    for old in prune(CHECKPOINTS, recorded_outputs(), checkpoints.folder):
        print(
            f"pretrain: checkpoints of a run that nobody went back to are removed: {old.folder}", flush=True
        )
    if checkpoints.newest() is None:
        key, _, kind = name.partition("-")
        others = {path.parent for path in CHECKPOINTS.glob(f"{key}-*/*.pt")} - {checkpoints.folder}
        for other in sorted(others):
            print(
                f"pretrain: this run has a checkpoint of {other.name.partition('-')[2]}, and this is {kind}: "
                "it begins anew; set pretrain.device, pretrain.precision or OMP_NUM_THREADS to go on from it",
                flush=True,
            )
    return checkpoints


def figures_of(run: TrainingRun) -> dict[str, float]:
    """The last epoch, which one was kept, and what the held-out kNN gained from the start to the last."""
    last = {name: value for name, value in run.history[-1].items() if math.isfinite(value)}
    gain = {} if run.gain is None else run.gain.figures("knn_gain")
    return last | {"kept_epoch": run.kept_epoch} | gain


def card_of(
    run: TrainingRun, params: Pretrain, collection: dict[str, Any], weights_sha256: str | None
) -> dict[str, Any]:
    """What the encoder will say of itself."""
    return {
        "method": params.method,
        "backbone": params.backbone.architecture(),
        "feature_dim": run.feature_dim,
        "image_size": collection["image_size"],
        "mean": run.statistics.mean,
        "std": run.statistics.std,
        "collection": collection["name"],
        "weights_sha256": weights_sha256,
        "params_sha256": hashlib.sha256(params.learned()).hexdigest(),
        "data_sha256": collection["sha256"],
    }


if __name__ == "__main__":
    with plain_errors():
        main()
