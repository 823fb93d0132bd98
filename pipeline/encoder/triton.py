"""The encoder as a model repository that NVIDIA's Triton Inference Server loads."""

import shutil
from pathlib import Path

from pipeline.artifacts import sha256_of
from pipeline.atomic import atomic_folder
from pipeline.encoder.runtime import INPUT_NAME, OUTPUT_NAME, Encoder
from pipeline.errors import UserError

MODEL = "encoder"
_GRAPH = f"{MODEL}/1/model.onnx"
_CONFIG = f"{MODEL}/config.pbtxt"
_OURS = {MODEL, f"{MODEL}/1", _GRAPH, _CONFIG}
_LARGEST_BATCH = 2**31 - 1  # max_batch_size is an int32
# A request waits at most so long for others: less than the encoder takes for an image at 224 px.
_MAX_QUEUE_DELAY_US = 2_000
_NUM_PREFERRED = 3  # the largest batch, half of it, a quarter


def export_triton(path: Path, folder: Path, max_batch: int) -> Encoder:
    """Writes a model repository with one model, `encoder`, whole or not at all.

    Args:
        path: the encoder, an ONNX file of stage `export`.
        folder: of the repository; what an earlier export wrote there is replaced.
        max_batch: the images that Triton gives the encoder at a time, at most.

    Returns:
        The encoder that was written.

    Raises:
        UserError: the encoder is missing, damaged or changed meanwhile, the folder holds other things, or
            `max_batch` is no size of a batch.
        MachineError: another process is writing the folder.
    """
    if not 1 <= max_batch <= _LARGEST_BATCH:
        raise UserError(f"--max-batch: {max_batch} is not between 1 and {_LARGEST_BATCH:,}")
    _refuse_what_is_not_ours(folder)
    encoder = Encoder.open(path, device="cpu")
    with atomic_folder(folder, check=lambda: _refuse_what_is_not_ours(folder)) as partial:
        (partial / MODEL / "1").mkdir(parents=True)
        shutil.copyfile(path, partial / _GRAPH)
        if sha256_of(partial / _GRAPH) != encoder.sha256:
            raise UserError(f"{path}: changed while it was copied: run the command again")
        (partial / _CONFIG).write_text(config(encoder.image_size, encoder.dim, max_batch))
    return encoder


def config(image_size: int, dim: int, max_batch: int) -> str:
    """The text of config.pbtxt, a ModelConfig in protobuf's text format.

    The batch is not among the dims: Triton puts it before them where `max_batch_size` is above 0.
    """
    preferred = sorted({max(1, max_batch >> number) for number in range(_NUM_PREFERRED)})
    return f"""\
name: "{MODEL}"
platform: "onnxruntime_onnx"
max_batch_size: {max_batch}
input [
  {{
    name: "{INPUT_NAME}"
    data_type: TYPE_UINT8
    dims: [ {image_size}, {image_size}, 3 ]
  }}
]
output [
  {{
    name: "{OUTPUT_NAME}"
    data_type: TYPE_FP32
    dims: [ {dim} ]
  }}
]
dynamic_batching {{
  preferred_batch_size: [ {", ".join(map(str, preferred))} ]
  max_queue_delay_microseconds: {_MAX_QUEUE_DELAY_US}
}}
instance_group [
  {{
    count: 1
    kind: KIND_AUTO
  }}
]
version_policy {{
  latest {{
    num_versions: 1
  }}
}}
"""


def _refuse_what_is_not_ours(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: a file: name a folder for the model repository")
    others = sorted({path.relative_to(folder).as_posix() for path in folder.rglob("*")} - _OURS)
    if others:
        raise UserError(
            f"{folder}: holds {others[0]!r}, which this command did not write and would remove: "
            "name a new folder"
        )
