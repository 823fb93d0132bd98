"""DVC stage `export`: the backbone and the start that it began from, to data/encoder/."""

import filecmp
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from pipeline.artifacts import Artifacts, write_json
from pipeline.atomic import atomic_folder
from pipeline.encoder.export import OPSET, export_backbones
from pipeline.errors import existing, plain_errors
from pipeline.params.export import Export
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
        # the encoder alone: what it loses by fewer bits must not be taken off the start too
        drift = {} if params.precision == "fp32" else write_in_fewer_bits(encoder, data, params)
        if not is_trained:  # the encoder is the start
            shutil.copy(encoder, start)
    about = {"opset": OPSET, "precision": params.precision}
    write_json(data.metrics("export"), about | asdict(parity) | drift)
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


def write_in_fewer_bits(path: Path, data: Artifacts, params: Export) -> dict[str, Any]:
    """Puts the encoder in fp16 or int8 in the place of the one in fp32; returns how far it is from that.

    Only here does the stage read images.
    """
    from pipeline.encoder.drift import calibration_images, check_drift, measure_drift, sampled_images
    from pipeline.encoder.quantize import write_fp16, write_int8
    from pipeline.encoder.runtime import Encoder

    reference = Encoder.open(path, device="cpu")
    if params.precision == "int8":
        write_int8(path, calibration_images(data, params.int8.calibration_images), path)
    else:
        write_fp16(path, path)
    drift = measure_drift(reference, Encoder.open(path, device="cpu"), sampled_images(data))
    print(f"{params.precision}: {drift.overlap_at_10:.3f} of the ten nearest are those of fp32")
    check_drift(drift, params.precision, params.int8 if params.precision == "int8" else params.fp16)
    return {name: value for name, value in asdict(drift).items() if value is not None}


if __name__ == "__main__":
    with plain_errors():
        main()
