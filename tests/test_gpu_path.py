"""The GPU's path without a GPU: CUDA tensors that have shapes and no numbers refuse to meet the CPU's."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from models.across_ranks import _Gather
from models.backbones import build_backbone
from models.methods import METHODS
from models.synchronised_norm import SynchronisedBatchNorm, _Normalise
from pipeline.errors import MachineError
from pipeline.params.pretrain_views import Views
from pipeline.params.reader import Params
from pipeline.training.distributed.world import World
from pipeline.training.guards import machine_errors
from pipeline.training.monitoring.epoch_log import scalars
from pipeline.training.optimizers import build_optimizer, clip_gradient
from pipeline.training.views import make_views

CUDA = torch.device("cuda")


class CudaGenerator(torch.Generator):
    """Says that it draws on the GPU; where there is none a real one cannot be made."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA


@pytest.fixture(autouse=True)
def fake_tensors() -> Iterator[None]:
    with FakeTensorMode():
        yield


def every_operation(views: Views) -> Views:
    """All of them happen, each to half of the images."""
    values: dict[str, Any] = views.model_dump()
    for operation in values:
        if operation != "size":
            values[operation]["p"] = 0.5
    values["color_jitter"] |= {"saturation": 0.4, "hue": 0.1}
    return Views.model_validate(values)


def test_a_tensor_of_the_cpu_would_be_found() -> None:
    with pytest.raises(RuntimeError, match=r"two (different )?devices"):
        torch.zeros(4, device=CUDA) + torch.arange(4)


@pytest.mark.parametrize("backbone_name", ["resnet20", "resnet10"])
@pytest.mark.parametrize("method", METHODS)
def test_views_forward_loss_and_step_stay_on_the_gpu(method: str, backbone_name: str, params: Params) -> None:
    section = getattr(params.pretrain, method).arguments()
    with CUDA:  # the modules are made there: fake tensors cannot be moved
        backbone = build_backbone(backbone_name, width=4, image_size=32)
        objective = METHODS[method](backbone.module, backbone.feature_dim, **section)
    optimizer = build_optimizer(objective.parts(), params.pretrain.optimizer)
    batch = torch.zeros(16, 32, 32, 3, dtype=torch.uint8, device=CUDA)
    labels = torch.zeros(16, dtype=torch.int64, device=CUDA)
    half = torch.full((3, 1, 1), 0.5, device=CUDA)

    views = make_views(batch, every_operation(params.pretrain.views), CudaGenerator())
    assert all(view.device.type == "cuda" for view in views)
    step = objective([(view - half) / half for view in views], labels)
    for weight in objective.parameters():  # backward itself asks for a GPU's streams
        weight.grad = torch.zeros_like(weight)
    clip_gradient(objective, 1.0)
    optimizer.step()
    for value in (*scalars(step).values(), *objective.state_dict().values()):
        assert value.device.type == "cuda"


@pytest.fixture
def two_ranks() -> Iterator[None]:
    """This process is the first of two, and what it would send to the other goes nowhere."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("two_ranks")
def test_what_ranks_tell_each_other_of_a_batch_stays_on_their_gpus(method: str, params: Params) -> None:
    section = getattr(params.pretrain, method).arguments()
    with CUDA:
        backbone = build_backbone("resnet20", width=4, image_size=32)
        objective = METHODS[method](backbone.module, backbone.feature_dim, **section)
    batch = torch.zeros(16, 32, 32, 3, dtype=torch.uint8, device=CUDA)
    labels = torch.zeros(32, dtype=torch.int64, device=CUDA)
    share = World(rank=0, size=2).share(32)
    views = make_views(batch, every_operation(params.pretrain.views), CudaGenerator(), 2, share)
    assert [len(view) for view in views] == [16, 16]
    with SynchronisedBatchNorm():
        step = objective(views, labels)
    assert step.features.shape == (32, backbone.feature_dim)
    for value in (*scalars(step).values(), *objective.state_dict().values()):
        assert value.device.type == "cuda"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("two_ranks")
def test_what_ranks_tell_each_other_in_a_backward_pass_does_too(dtype: torch.dtype) -> None:
    # its own steps alone, since a whole one asks for a GPU's streams
    rows = torch.zeros(32, 8, device=CUDA)
    assert _Gather.backward(SimpleNamespace(num_rows=16), rows).shape == (16, 8)
    pixels, channel = torch.zeros(16, 8, 4, 4, dtype=dtype, device=CUDA), torch.ones(8, device=CUDA)
    with SynchronisedBatchNorm():
        normed = F.batch_norm(pixels, channel, channel, channel, channel, training=True)
    saved = SimpleNamespace(saved_tensors=(pixels, channel, channel, channel), num_values=512, eps=1e-5)
    of_pixels, of_scale, of_shift, *_ = _Normalise.backward(saved, normed)
    assert of_pixels is not None
    assert normed.dtype == of_pixels.dtype == dtype
    for gradient in (of_pixels, of_scale, of_shift):
        assert gradient is not None
        assert gradient.device.type == "cuda"


def test_a_full_gpu_is_said_in_one_line_and_other_errors_pass(params: Params) -> None:
    line = rf"memory is full at pretrain\.batch_size {params.pretrain.batch_size} and"
    with pytest.raises(MachineError, match=line) as error, machine_errors(params.pretrain):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    assert "\n" not in str(error.value)
    with pytest.raises(RuntimeError, match="another"), machine_errors(params.pretrain):
        raise RuntimeError("another")
