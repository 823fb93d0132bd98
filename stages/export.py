"""DVC stage `export`: the backbone and the start that it began from, to data/encoder/."""

import filecmp
import shutil
import time
from dataclasses import asdict

import onnxruntime
import torch

from pipeline.artifacts import Artifacts, write_json
from pipeline.atomic import atomic_folder
from pipeline.encoder.export import OPSET, export_backbones
from pipeline.errors import existing, plain_errors
from pipeline.params.reader import load_params
from pipeline.provenance.loaded import Loaded


def main() -> None:
    loaded = Loaded("export", section="export")
    params = load_params().export
    data = Artifacts()
    naming = {"name": params.name, "version": params.version}
    started = time.perf_counter()
    with atomic_folder(data.encoders, loaded.check) as folder:
        encoder, start = (folder / path.name for path in (data.encoder, data.start_encoder))
        encoders = {existing(data.backbone, made_by="pretrain"): encoder}
        is_trained = not filecmp.cmp(data.backbone, data.start_backbone, shallow=False)
        if is_trained:
            encoders[data.start_backbone] = start
        parity, *_ = export_backbones(encoders, naming, params)
        if not is_trained:  # the encoder is the start
            shutil.copy(encoder, start)
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
