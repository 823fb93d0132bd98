"""Two processes with half of each batch are one process with all of it, up to rounding."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.across_ranks import gather
from models.synchronised_norm import SynchronisedBatchNorm
from pipeline.training.distributed.world import ALONE, World
from tests.processes import start
from tests.test_methods import SECTIONS, build

NUM_RANKS = 2
# relative to the length of the whole: digits of the type, and two to spare
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 1e-2}
NORMS: dict[str, nn.Module] = {
    "after a convolution": nn.BatchNorm2d(5),
    "after a linear layer": nn.BatchNorm1d(5),
    "without scale and shift": nn.BatchNorm2d(5, affine=False),
    "without running statistics": nn.BatchNorm2d(5, track_running_stats=False),
    "cumulative": nn.BatchNorm2d(5, momentum=None),
}


def own(whole: Tensor, world: World) -> Tensor:
    share = world.share(len(whole))
    return whole if share is None else whole[torch.from_numpy(share.rows)]


def learn(case: str, world: World) -> dict[str, Any]:
    """One step of an objective on this rank's rows: loss, metrics, features, gradient and state."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(16, 3, 12, 12, generator=generator)
    views = [images + 0.1 * torch.randn(images.shape, generator=generator) for _ in range(2)]
    labels = torch.arange(16) % 3
    objective = build(case)
    parallel = world.parallel(objective)
    with SynchronisedBatchNorm():
        with torch.no_grad():  # after which NNCLR's queue has projections of these
            objective([own(view, world) for view in views], labels)
        step = parallel([own(view, world) for view in views], labels)
    step.loss.backward()
    return {
        "loss": step.loss.detach(),
        "metrics": step.metrics,
        "features": step.features,
        "gradient": {name: weight.grad for name, weight in objective.named_parameters()},
        "state": {name: value.clone() for name, value in objective.state_dict().items()},
    }


def normalise(case: str, dtype: torch.dtype, world: World) -> dict[str, Any]:
    """One batch norm forward and back, on the rows of this rank."""
    torch.manual_seed(0)
    norm = NORMS[case]
    shape = (8, 5) if isinstance(norm, nn.BatchNorm1d) else (8, 5, 6, 4)
    inputs = (2 * torch.randn(shape) + 30).to(dtype)  # far from 0: a mean of squares would lose digits
    targets = torch.randn(shape).to(dtype)
    if inputs.dim() == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    norm.load_state_dict(type(norm)(5, affine=norm.affine, momentum=norm.momentum).state_dict(), strict=False)
    norm.to(torch.promote_types(dtype, torch.float32)).zero_grad()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    part = own(inputs, world).requires_grad_()
    with SynchronisedBatchNorm():
        normed = norm(part)
    (normed * own(targets, world)).sum().backward()
    assert part.grad is not None
    return {
        "normed": normed.detach(),
        "of inputs": part.grad,
        "gradient": {name: weight.grad.clone() for name, weight in norm.named_parameters()},
        "state": {name: value.clone() for name, value in norm.state_dict().items()},
        "dtype": normed.dtype,
        "is channels_last": inputs.dim() == 2 or normed.is_contiguous(memory_format=torch.channels_last),
    }


def gathered(world: World) -> dict[str, Tensor]:
    """The gradient of a loss that weighs the rows, each rank's copy of it by another weight."""
    rows = torch.arange(8.0).reshape(4, 2)
    part = own(rows, world).requires_grad_()
    whole = gather(part)
    ((1 + world.rank) * whole.square().sum()).backward()
    assert part.grad is not None
    return {"whole": whole.detach(), "gradient": part.grad}


def of_rank(rank: int, folder: Path) -> None:
    """In a process of its own: all that these tests compare, to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=NUM_RANKS)
    world = World(rank, NUM_RANKS)
    done = {
        "steps": {case: learn(case, world) for case in SECTIONS},
        "norms": {(case, dtype): normalise(case, dtype, world) for case in NORMS for dtype in CLOSE},
        "gathered": gathered(world),
        "first": world.first({"rank": rank}),
        "most": world.most(rank, 7 - rank),
        "spread": world.spread(lambda rows: torch.from_numpy(rows), torch.arange(5).numpy() * 10),
    }
    torch.save(done, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    processes = [start(of_rank, rank, folder) for rank in range(NUM_RANKS)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(NUM_RANKS)]


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.double().nan_to_num(-1).flatten() for tensor in tensors.values()])


def assert_close(found: Tensor, expected: Tensor, dtype: torch.dtype = torch.float32) -> None:
    """As far apart as rounding is, for the length of the whole."""
    assert (found - expected).norm() <= CLOSE[dtype] * max(1.0, expected.norm().item())


@pytest.mark.parametrize("case", SECTIONS)
def test_loss_and_gradient_of_two_ranks_are_those_of_the_whole_batch(
    case: str, ranks: list[dict[str, Any]]
) -> None:
    whole = learn(case, ALONE)
    for rank in ranks:
        found = rank["steps"][case]
        assert abs(found["loss"] - whole["loss"]) <= 1e-5
        assert_close(found["features"], whole["features"])
        for kind in ("gradient", "state", "metrics"):
            assert found[kind].keys() == whole[kind].keys()
            assert_close(flat(found[kind]), flat(whole[kind]))


def test_both_ranks_have_the_same_bytes(ranks: list[dict[str, Any]]) -> None:
    for step, other in zip(*(rank["steps"].values() for rank in ranks), strict=True):
        for kind in ("gradient", "state"):
            for name, value in step[kind].items():
                assert torch.equal(value, other[kind][name]), name


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("case", NORMS)
def test_a_synchronised_norm_is_the_norm_of_the_whole_batch(
    case: str, dtype: torch.dtype, ranks: list[dict[str, Any]]
) -> None:
    whole = normalise(case, dtype, ALONE)
    found = [rank["norms"][case, dtype] for rank in ranks]
    for kind in ("normed", "of inputs"):
        both = torch.cat([each[kind] for each in found])
        assert both.dtype == whole[kind].dtype
        assert_close(both.double(), whole[kind].double(), dtype)
    for each in found:
        assert each["is channels_last"]
        assert each["state"].keys() == whole["state"].keys()
        assert_close(flat(each["state"]), flat(whole["state"]), torch.float32)
    if whole["gradient"]:  # each rank has its rows' part of it
        total = flat(found[0]["gradient"]) + flat(found[1]["gradient"])
        assert_close(total, flat(whole["gradient"]), dtype)


def test_a_gathered_row_has_the_gradients_of_all_ranks(ranks: list[dict[str, Any]]) -> None:
    rows = torch.arange(8.0).reshape(4, 2)
    for rank in ranks:
        assert torch.equal(rank["gathered"]["whole"], rows)
    both = torch.cat([rank["gathered"]["gradient"] for rank in ranks])
    assert torch.equal(both, (1 + 2) * 2 * rows)  # the square's derivative, by either rank's weight


def test_ranks_agree_and_share(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["first"] == {"rank": 0}
        assert rank["most"] == (1, 7)
        assert rank["spread"].tolist() == [0, 10, 20, 30, 40]  # the sixth is none
