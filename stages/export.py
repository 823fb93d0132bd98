"""DVC stage `export`: the backbone and the start that it began from, to data/encoder/."""

import filecmp
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import onnxruntime
import torch

from models.backbones import published_width
from pipeline.artifacts import Artifacts, write_json
from pipeline.atomic import atomic_folder
from pipeline.encoder.export import OPSET, Parity, check_parity, export_onnx, load_backbone
from pipeline.encoder.runtime import Encoder
from pipeline.errors import plain_errors
from pipeline.images import INTERPOLATION, RESIZE_RULE
from pipeline.params.export import Export
from pipeline.params.reader import load_params
from pipeline.provenance.loaded import Loaded


def export(backbone: Path, encoder: Path, params: Export) -> Parity:
    """Writes one encoder and holds it against torch."""
    module, card = load_backbone(backbone)
    backbone_card = card.pop("backbone")
    naming = {"name": params.name, "version": params.version}
    metadata = (
        naming
        | card
        | {
            "backbone": backbone_card["name"],
            "width": backbone_card["width"] or published_width(backbone_card["name"]),
            "resize": RESIZE_RULE,
            "interpolation": INTERPOLATION,
        }
    )
    export_onnx(module, metadata, encoder)
    # float32 on the CPU on both sides: the gate is for the graph, not for a GPU's rounding
    return check_parity(
        module, Encoder.open(encoder, device="cpu"), params.max_abs_difference, params.min_cosine
    )


def main() -> None:
    loaded = Loaded("export", section="export")
    params = load_params().export
    data = Artifacts()
    started = time.perf_counter()
    with atomic_folder(data.encoders, loaded.check) as folder:
        parity = export(data.backbone, folder / data.encoder.name, params)
        if filecmp.cmp(data.backbone, data.start_backbone, shallow=False):  # the encoder is the start
            shutil.copy(folder / data.encoder.name, folder / data.start_encoder.name)
        else:
            export(data.start_backbone, folder / data.start_encoder.name, params)
    write_json(data.metrics("export"), {"opset": OPSET} | asdict(parity))
    write_json(
        data.speed("export"),
        {
            "seconds": round(time.perf_counter() - started, 2),
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    )
    print(
        f"torch and onnxruntime: largest difference {parity.max_abs_difference:.1e}, "
        f"lowest cosine {parity.min_cosine:.7f}"
    )


if __name__ == "__main__":
    with plain_errors():
        main()
