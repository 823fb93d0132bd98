"""The name of a run: another one wherever params, images, labels or code could end it in other bytes."""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.params.pretrain import Pretrain
from pipeline.provenance import why_without_effect

_CODE = ("models", "pipeline")
_DIGITS = 16


def run_key(params: Pretrain, collection: Mapping[str, Any], labels: NDArray[np.int64]) -> str:
    """A name for all that a run depends on: params, images, labels, code and the version of torch.

    Args:
        params: of the run.
        collection: what collection.json says, the hash of the images among it.
        labels: [N].

    Returns:
        16 hexadecimal digits.
    """
    key = hashlib.sha256(params.learned())
    key.update(json.dumps([collection, torch.__version__]).encode())
    key.update(labels.tobytes())
    for name, path in sorted(_loaded_code().items()):
        if why_without_effect(name, section="pretrain") is None:
            key.update(name.encode() + path.read_bytes())
    return key.hexdigest()[:_DIGITS]


def _loaded_code() -> dict[str, Path]:
    """The project's modules that this process has imported, by their path in the project."""
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None and name.partition(".")[0] in _CODE:
            path = Path(file)
            levels = name.count(".") + (path.name == "__init__.py")
            found[path.relative_to(path.parents[levels]).as_posix()] = path
    return found
