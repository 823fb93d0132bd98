"""DVC stage `pretrain`: the backbone learns from the training images, to data/pretrain/."""

import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save

from pipeline.artifacts import SCRATCH, Artifacts, Stacked, write_json, write_tsv
from pipeline.atomic import atomic_folder
from pipeline.errors import MachineError, UserError, plain_errors
from pipeline.params.pretrain import Pretrain
from pipeline.params.reader import load_params
from pipeline.pictures import Tile, draw_rows, write_picture
from pipeline.training.display.live import LivePlots
from pipeline.training.loop import train
from pipeline.training.pixels import Images
from pipeline.training.resuming.checkpoint import Checkpoints
from pipeline.training.views import make_views

_PICTURED = 8  # images


def learned_params(params: Pretrain) -> bytes:
    """As JSON, but for those that change nothing in what is learned."""
    return params.model_dump_json(exclude={"checkpoint", "tensorboard"}).encode()


def run_key(params: Pretrain, collection: Mapping[str, Any], labels: NDArray[np.int64]) -> str:
    """A name for all that a run depends on: params, images, labels, code and the version of torch."""
    key = hashlib.sha256(learned_params(params))
    key.update(json.dumps([collection, torch.__version__]).encode())
    key.update(labels.tobytes())
    for name in sorted(sys.modules):
        path = getattr(sys.modules[name], "__file__", None)
        if path is not None and name.partition(".")[0] in ("models", "pipeline"):
            key.update(Path(path).read_bytes())
    return key.hexdigest()[:16]


def draw_views(images: Images, params: Pretrain) -> Image.Image:
    """Some images, each beside its views: a wrong augmentation is seen at once."""
    rows = np.linspace(0, len(images) - 1, min(_PICTURED, len(images))).astype(np.int64)
    batch = images[rows]
    generator = torch.Generator().manual_seed(params.seed)
    views = make_views(torch.from_numpy(batch), params.views, generator, params.num_views)
    tiles = [(view.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy() for view in views]
    return draw_rows(
        [
            (Tile(image, "image"), [Tile(each[i], f"view {n}") for n, each in enumerate(tiles, start=1)])
            for i, image in enumerate(batch)
        ]
    )


@contextmanager
def machine_errors(params: Pretrain) -> Iterator[None]:
    """Says in one line that the GPU's memory is full, or that torch has no compiler that works."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise MachineError(
            f"the GPU's memory is full at pretrain.batch_size {params.batch_size}: lower it (and raise "
            "pretrain.optimizer.accumulate, so that a step takes as many images), or use a smaller backbone"
        ) from None
    except RuntimeError as error:
        if not (params.compile and isinstance(error, torch._dynamo.exc.BackendCompilerFailed)):
            raise
        reason = str(error.inner_exception).splitlines()[0]
        raise MachineError(
            f"pretrain.compile is true, but torch cannot compile here ({reason}): install a C++ compiler "
            "(g++) and Python's headers, or set it to false"
        ) from None


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
    data.views.parent.mkdir(parents=True, exist_ok=True)
    write_picture(draw_views(images, params), data.views)
    checkpoints = Checkpoints(SCRATCH / "checkpoints" / run_key(params, collection, labels))
    started = time.perf_counter()
    with LivePlots(SCRATCH / "live", tensorboard=params.tensorboard) as plots, machine_errors(params):
        run = train(images, labels, params, checkpoints, plots.show)
    card = {
        "method": params.method,
        "backbone": params.backbone.model_dump(),
        "feature_dim": run.feature_dim,
        "image_size": collection["image_size"],
        "mean": run.statistics.mean,
        "std": run.statistics.std,
        "collection": collection["name"],
        "params_sha256": hashlib.sha256(learned_params(params)).hexdigest(),
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
