"""The name of a run: another one wherever params, images, labels, code or machine could change its bytes."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.params.pretrain import Pretrain
from pipeline.provenance.code import loaded_code, why_without_effect
from pipeline.training.hardware.machine import choose_device
from pipeline.training.hardware.precision import precision_of

_DIGITS = 16


def run_name(
    params: Pretrain,
    collection: Mapping[str, Any],
    labels: NDArray[np.int64],
    weights_sha256: str | None,
    num_threads: int | None = None,
) -> str:
    """The key of a run and the kind of machine, like `0123456789abcdef-cpu-bfloat16-2-threads`.

    Another device, another precision or, on the CPU, another number of threads adds in another order or to
    other digits, so none goes on from what another has begun. Another number of processes adds in another
    order too, and does: a long run should not depend on how many GPUs are free.

    Args:
        params: of the run.
        collection: what collection.json says.
        labels: [N].
        weights_sha256: of the weights that the run begins with; None where they are random.
        num_threads: of all its processes on this machine; None: as many as torch has here.

    Raises:
        MachineError: there is no such device.
    """
    device = choose_device(params.device)
    kind = f"{device.type}-{precision_of(params, collection['image_size'], device)}"
    if device.type == "cpu":
        kind += f"-{num_threads or torch.get_num_threads()}-threads"
    return f"{run_key(params, collection, labels, weights_sha256)}-{kind}"


def run_key(
    params: Pretrain, collection: Mapping[str, Any], labels: NDArray[np.int64], weights_sha256: str | None
) -> str:
    """A name for all that a run depends on: params, images, labels, start, code and the version of torch.

    Args:
        params: of the run.
        collection: what collection.json says, the hash of the images among it.
        labels: [N].
        weights_sha256: of the weights that the run begins with; None where they are random.

    Returns:
        16 hexadecimal digits.
    """
    key = hashlib.sha256(params.learned())
    key.update(json.dumps([collection, weights_sha256, torch.__version__]).encode())
    key.update(labels.tobytes())
    for name, path in sorted(loaded_code().items()):
        if not name.startswith("stages/") and why_without_effect(name, section="pretrain") is None:
            key.update(name.encode() + path.read_bytes())
    return key.hexdigest()[:_DIGITS]
