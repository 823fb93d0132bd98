"""DVC stage `pretrain`: the backbone learns from the training images, to data/pretrain/."""

import hashlib
import json
import math
import time

import numpy as np
import torch
from safetensors.torch import save

from pipeline.artifacts import SCRATCH, Artifacts, Stacked, write_json, write_tsv
from pipeline.atomic import atomic_folder
from pipeline.errors import UserError, plain_errors
from pipeline.params.reader import load_params
from pipeline.pictures import write_picture
from pipeline.training.display.live import LivePlots
from pipeline.training.display.views_picture import draw_views
from pipeline.training.guards import machine_errors
from pipeline.training.loop import train
from pipeline.training.resuming.checkpoint import Checkpoints
from pipeline.training.resuming.run_key import run_key

LIVE = SCRATCH / "live"  # what a person looks at while it runs


def main() -> None:
    params = load_params().pretrain
    data = Artifacts()
    splits = [split for split in data.splits() if split in params.splits]
    if not splits:
        raise UserError(
            f"params.yaml: pretrain.splits: the collection has {', '.join(data.splits())}, none of "
            f"{', '.join(params.splits)}: name one that it has"
        )
    images = Stacked([data.read_images(split) for split in splits])
    labels = data.read_manifest().query("split in @splits")["label"].to_numpy(dtype=np.int64)
    collection = data.read_collection()
    checkpoints = Checkpoints(SCRATCH / "checkpoints" / run_key(params, collection, labels))
    with LivePlots(LIVE, tensorboard=params.tensorboard) as plots, machine_errors(params):
        write_picture(draw_views(images, params), LIVE / "views.png")
        started = time.perf_counter()
        run = train(images, labels, params, checkpoints, plots.show)
    card = {
        "method": params.method,
        "backbone": params.backbone.model_dump(),
        "feature_dim": run.feature_dim,
        "image_size": collection["image_size"],
        "mean": run.statistics.mean,
        "std": run.statistics.std,
        "collection": collection["name"],
        "params_sha256": hashlib.sha256(params.learned()).hexdigest(),
        "data_sha256": collection["sha256"],
    }
    # one key: safetensors writes several in an order that changes from run to run
    metadata = {"lookalike": json.dumps(card)}
    with atomic_folder(data.pretrain) as folder:
        (folder / data.backbone.name).write_bytes(save(run.backbone, metadata))
        (folder / data.untrained_backbone.name).write_bytes(save(run.untrained, metadata))
        write_tsv(folder / "history.tsv", run.history)
    last = {name: value for name, value in run.history[-1].items() if math.isfinite(value)}
    write_json(data.metrics("pretrain"), last)
    write_json(
        data.speed("pretrain"),
        {
            "seconds": round(time.perf_counter() - started, 2),
            "views_per_s": round(run.views_per_s, 1),
            "device": run.device,
            "precision": run.precision,
            "num_threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    )
    checkpoints.remove()


if __name__ == "__main__":
    with plain_errors():
        main()
