"""DVC stage `export`: the backbone and the start that it began from, to data/encoder/."""

import filecmp
import shutil
import time
from dataclasses import asdict

import onnxruntime
import torch

from pipeline.artifacts import Artifacts, write_json
from pipeline.atomic import atomic_folder
from pipeline.encoder.export import OPSET, export_backbone
from pipeline.errors import plain_errors
from pipeline.params.reader import load_params
from pipeline.provenance.loaded import Loaded


def main() -> None:
    loaded = Loaded("export", section="export")
    params = load_params().export
    data = Artifacts()
    naming = {"name": params.name, "version": params.version}
    started = time.perf_counter()
    with atomic_folder(data.encoders, loaded.check) as folder:
        parity = export_backbone(data.backbone, folder / data.encoder.name, naming, params)
        if filecmp.cmp(data.backbone, data.start_backbone, shallow=False):  # the encoder is the start
            shutil.copy(folder / data.encoder.name, folder / data.start_encoder.name)
        else:
            export_backbone(data.start_backbone, folder / data.start_encoder.name, naming, params)
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
