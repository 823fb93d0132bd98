"""DVC stage `finetune`: the backbone trained further on a share of the labels, to data/finetune/.

It is off by default. What needs torch is imported where it is on: a chain without it should not wait.
"""

import hashlib
import json
import time
from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline.artifacts import Artifacts, write_json, write_tsv
from pipeline.atomic import atomic_folder
from pipeline.encoder.finetuned import FinetuneFolder
from pipeline.errors import plain_errors
from pipeline.params.finetune import Finetune
from pipeline.params.reader import load_params
from pipeline.provenance.loaded import Loaded


def main() -> None:
    loaded = Loaded("finetune", section="finetune")
    params = load_params().finetune
    data = Artifacts()
    started = time.perf_counter()
    machine: dict[str, Any] = {}
    with atomic_folder(data.finetune, loaded.check) as path:
        if params.epochs:
            machine = write_finetuned(FinetuneFolder(path), data, params)
        else:
            FinetuneFolder(path).write_off()
            print("finetune: off (finetune.epochs: 0)", flush=True)
    write_json(data.speed("finetune"), {"seconds": round(time.perf_counter() - started, 2)} | machine)


def write_finetuned(folder: FinetuneFolder, data: Artifacts, params: Finetune) -> dict[str, Any]:
    """Backbone, history, encoder, embeddings and card; returns what depends on the machine."""
    from safetensors.torch import save

    from models.depthwise import depthwise_share
    from pipeline.encoder.export import load_backbone
    from pipeline.training.finetuning.finetune import finetune
    from pipeline.training.finetuning.share import labelled_share
    from pipeline.training.finetuning.tuner import Start
    from pipeline.training.guards import memory_errors

    manifest = data.read_manifest(["split", "label"])
    labels = manifest.loc[manifest["split"] == "train", "label"].to_numpy(dtype=np.int64)  # of test: never
    rows = labelled_share(labels, params)
    module, card = load_backbone(data.backbone)
    depthwise = depthwise_share(card["backbone"]["name"], card["image_size"])
    start = Start(module.backbone, module.mean, module.std, card.pop("centered"), depthwise)
    with memory_errors(f"at finetune.batch_size {params.batch_size}: lower it"):
        run = finetune(data.read_images("train"), rows, labels[rows], start, params)
    params_sha256 = hashlib.sha256(card["params_sha256"].encode() + params.learned()).hexdigest()
    card |= {"method": f"{card['method']}+finetuned", "params_sha256": params_sha256}
    folder.backbone.write_bytes(save(run.backbone, {"lookalike": json.dumps(card)}))
    write_tsv(folder.history, run.history)
    about_encoder = write_encoder(folder, data, params)
    write_json(
        folder.card,
        {"epochs": params.epochs, "share": params.share, "num_images": len(rows)}
        | about_encoder
        | {"data_sha256": data.read_collection()["sha256"]},
    )
    return run.machine


def write_encoder(folder: FinetuneFolder, data: Artifacts, params: Finetune) -> dict[str, float]:
    """The encoder and the embeddings of the scored images; returns how far onnxruntime is from torch."""
    from pipeline.encoder.embed import embed_to_file
    from pipeline.encoder.export import export_backbones
    from pipeline.encoder.runtime import Encoder
    from pipeline.evaluation.scored import scored_images

    shipped = Encoder.open(data.encoder, "cpu").metadata
    naming = {name: shipped[name] for name in ("name", "version")}
    (parity,) = export_backbones({folder.backbone: folder.encoder}, naming, params)
    encoder = Encoder.open(folder.encoder, params.device)
    scored = scored_images(data.read_manifest(["split", "label"]))
    folder.embeddings.mkdir()
    for split in ("train", "test"):
        asked = scored.features_of(split)
        if len(asked):
            path, what = folder.embeddings / f"{split}.npy", f"embed {split}, finetuned"
            embed_to_file(encoder, data.read_images(split), asked, params.batch_size, path, what)
    return asdict(parity)


if __name__ == "__main__":
    with plain_errors():
        main()
