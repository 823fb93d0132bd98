"""What a GPU alone can show: a recorded run is the run as written, and no step waits. Skipped without one."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.errors import MachineError
from pipeline.params.reader import Params
from pipeline.training import batches
from pipeline.training.display import progress
from pipeline.training.guards import machine_errors
from pipeline.training.loop import train
from tests.conftest import ROOT
from tests.test_resume import LABELS, METHODS, assert_equal_runs, tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (80, 16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float32"])
def test_a_recorded_run_ends_in_the_bytes_of_the_run_as_written(
    method: str, precision: str, params: Params, images: NDArray[np.uint8]
) -> None:
    chosen = {"precision": precision, "views.blur.p": 0.5, "views.color_jitter.hue": 0.1}
    recorded, written = (
        train(images, LABELS, tiny(params, method, **chosen, cuda_graph=cuda_graph))
        for cuda_graph in (True, False)
    )
    assert recorded.device == "cuda"
    assert_equal_runs(recorded, written)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet20v2", "timm:convnext_atto"])
def test_every_kind_of_backbone_is_recorded(backbone: str, params: Params) -> None:
    images = np.random.default_rng(0).integers(0, 256, (80, 32, 32, 3), dtype=np.uint8)
    chosen = {"backbone.name": backbone, "backbone.width": None, "views.size": 32}
    recorded, written = (
        train(images, LABELS, tiny(params, **chosen, cuda_graph=cuda_graph)) for cuda_graph in (True, False)
    )
    assert_equal_runs(recorded, written)


def test_a_collection_too_large_for_the_gpu_is_learned_to_the_same_bytes(
    params: Params, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = train(images, LABELS, tiny(params, cuda_graph=True))
    monkeypatch.setattr(batches, "_SHARE_OF_FREE_MEMORY", 0.0)
    assert_equal_runs(train(images, LABELS, tiny(params, cuda_graph=True)), resident)


@pytest.mark.parametrize("cuda_graph", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits_for_the_gpu(
    method: str,
    cuda_graph: bool,
    params: Params,
    images: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An epoch of four times the batches waits no more often."""
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LOSSES", 1e9)

    def waits(copies: int) -> int:
        many, labels = np.tile(images, (copies, 1, 1, 1)), np.tile(LABELS, copies)
        chosen = {"epochs": 1, "monitor.holdout_fraction": 0.01, "monitor.probe.views": "first"}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            train(many, labels, tiny(params, method, **chosen, cuda_graph=cuda_graph))
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in caught)

    assert 0 < waits(4) <= waits(1)


WAITS = """
import sys
import numpy as np
from pipeline.errors import UserError
from pipeline.params.pretrain import Pretrain
from pipeline.training import learner
from pipeline.training.loop import train
make_views = learner.make_views
def waiting(*args):
    views = make_views(*args)
    views[0].sum().item()
    return views
learner.make_views = waiting
params = Pretrain.model_validate_json(sys.argv[1])
images = np.random.default_rng(0).integers(0, 256, (80, 16, 16, 3), dtype=np.uint8)
try:
    train(images, np.tile([0, 1, 2, -1], 20), params)
except UserError as error:
    print("said:", error)
"""


def test_a_step_that_cannot_be_recorded_is_one_line(params: Params) -> None:
    """In a process of its own, since what torch holds after a failed recording is not promised."""
    command = [sys.executable, "-c", WAITS, tiny(params, cuda_graph=True).model_dump_json()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "said: params.yaml: pretrain.cuda_graph: a step of this network cannot be" in done.stdout
    assert len(done.stdout.splitlines()) == 3  # a header, epoch 0, and that


def test_a_full_gpu_is_one_line(params: Params, images: NDArray[np.uint8]) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-4)  # 8 MiB of 80 GiB
    try:
        with pytest.raises(MachineError, match=r"memory is full at pretrain\.batch_size 8 and"):
            chosen = tiny(params, **{"backbone.name": "resnet18", "backbone.width": 64}, cuda_graph=True)
            with machine_errors(chosen):
                train(images, LABELS, chosen)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
