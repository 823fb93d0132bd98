"""A training of seconds that several test files share: its params, its images and their labels."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.params.pretrain import Pretrain
from pipeline.params.reader import Params

LABELS = np.repeat(np.arange(3), 20)
TINY = {
    "epochs": 2,
    "batch_size": 16,
    "backbone.width": 4,
    "views.size": 16,
    "views.color_jitter.p": 0.0,
    "views.blur.p": 0.0,
    "optimizer.lr": 0.05,
    "optimizer.warmup_epochs": 1.0,
    "monitor.bank_size": 20,
}


def changed(params: Params, **changes: Any) -> Pretrain:
    return changed_run(params.pretrain, **changes)


def changed_run(params: Pretrain, **changes: Any) -> Pretrain:
    values = params.model_dump()
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = values
        for name in sections:
            section = section[name]
        section[last] = value
    return Pretrain.model_validate(values)


@pytest.fixture
def tiny(params: Params) -> Pretrain:
    """Two epochs of three steps, in a second, whatever the default run may be."""
    return changed(params, **TINY)


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return striped_images()


def striped_images() -> NDArray[np.uint8]:
    """Stripes, dots and noise in three classes: something to tell apart."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (60, 16, 16, 3), dtype=np.uint8)
    images[:20, ::4] += 150
    images[20:40, :, ::4] += 150
    return images
