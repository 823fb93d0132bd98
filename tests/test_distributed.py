"""Two processes with half of each batch are one process with all of it, up to rounding."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from models.across_ranks import gather
from models.synchronised_norm import SynchronisedBatchNorm
from pipeline.errors import NotFiniteError, StoppedError
from pipeline.params.pretrain import Pretrain
from pipeline.params.reader import Params
from pipeline.training import learner
from pipeline.training.distributed.world import ALONE, World
from pipeline.training.loop import train
from pipeline.training.resuming.checkpoint import Checkpoints
from tests.processes import start
from tests.test_methods import SECTIONS, build
from tests.tiny_run import LABELS, TINY, changed, changed_run, striped_images

NUM_RANKS = 2
# relative to the length of the whole: digits of the type, and two to spare
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 1e-2}
# A rectifier that opens by rounding moves the next gradient; half a gradient moved the weights by three times
# as much.
AFTER_NINE_STEPS = 1e-3
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


@contextmanager
def in_batch(number: int, happens: Callable[[list[Tensor]], list[Tensor]]) -> Iterator[None]:
    """In the block something happens to the views of batch `number`, from 0, which is epoch 0's."""
    make_views, calls = learner.make_views, iter(range(10**6))

    def views(*arguments: Any) -> list[Tensor]:
        made = make_views(*arguments)
        return happens(made) if next(calls) == number else made

    learner.make_views = views
    yield
    learner.make_views = make_views


def sends_itself_a_signal(views: list[Tensor]) -> list[Tensor]:
    os.kill(os.getpid(), signal.SIGTERM)
    return views


def breaks_down(views: list[Tensor]) -> list[Tensor]:
    return [view * torch.nan for view in views]


def runs(params: Pretrain, images: NDArray[np.uint8], folder: Path, world: World) -> dict[str, Any]:
    """A run; the same stopped by a signal to the last rank alone, and gone on; one that a rank breaks."""
    is_last = world.rank == world.size - 1
    undisturbed = train(images, LABELS, params, world=world)
    checkpoints = Checkpoints(folder / "stopped", world)
    said = []
    with (
        in_batch(2, sends_itself_a_signal) if is_last else nullcontext(),
        pytest.raises(StoppedError) as error,
    ):
        train(images, LABELS, params, checkpoints, world=world)
    said.append(str(error.value))
    if world.is_first:
        shutil.copytree(folder / "stopped", folder / "for one")
    gone_on = train(images, LABELS, params, checkpoints, world=world)
    with in_batch(5, breaks_down) if is_last else nullcontext(), pytest.raises(NotFiniteError) as broken:
        train(images, LABELS, params, world=world)
    said.append(str(broken.value))
    kept = changed_run(params, **{"keep": "best", "monitor.holdout_fraction": 0.6, "batch_size": 8})
    with in_batch(5, breaks_down) if is_last else nullcontext():
        best = train(images, LABELS, kept, world=world)
    return {
        "history": undisturbed.history,
        "backbone": undisturbed.backbone,
        "gone on": gone_on.backbone,
        "said": said,
        "kept": (best.kept_epoch, len(best.history)),
    }


def of_rank(rank: int, folder: Path, params: Pretrain, images: NDArray[np.uint8]) -> None:
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
        "runs": runs(params, images, folder, world),
        "spread": world.spread(lambda rows: torch.from_numpy(rows), torch.arange(5).numpy() * 10),
    }
    torch.save(done, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def stripes() -> NDArray[np.uint8]:
    return striped_images()


@pytest.fixture(scope="module")
def run_params(params: Params) -> Pretrain:
    """Three epochs of three steps, with everything that a rank could do its own way."""
    exact = {"device": "cpu", "precision": "float32", "epochs": 3}
    return changed(
        params,
        **TINY | exact | {"monitor.probe.views": "mild", "backbone.name": "resnet10", "optimizer.lr": 0.002},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(folder: Path, run_params: Pretrain, stripes: NDArray[np.uint8]) -> list[dict[str, Any]]:
    processes = [start(of_rank, rank, folder, run_params, stripes) for rank in range(NUM_RANKS)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(NUM_RANKS)]


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.double().nan_to_num(-1).flatten() for tensor in tensors.values()])


def assert_close(
    found: Tensor, expected: Tensor, dtype: torch.dtype = torch.float32, apart: float | None = None
) -> None:
    """As far apart as rounding is, for the length of the whole."""
    assert (found - expected).norm() <= (apart or CLOSE[dtype]) * max(1.0, expected.norm().item())


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


def test_a_run_of_two_ranks_is_the_run_of_one(
    run_params: Pretrain, stripes: NDArray[np.uint8], ranks: list[dict[str, Any]]
) -> None:
    alone = train(stripes, LABELS, run_params)
    first, second = (rank["runs"] for rank in ranks)
    assert first["history"] == second["history"]
    for row, expected in zip(first["history"], alone.history, strict=True):
        assert row.keys() == expected.keys()
        for name, value in expected.items():
            # a hit more or less of the few that are counted
            assert row[name] == pytest.approx(value, rel=0.02, abs=0.02), name
    assert first["history"][-1]["knn_top1"] == alone.history[-1]["knn_top1"] == 1.0
    assert_close(flat(first["backbone"]), flat(alone.backbone), apart=AFTER_NINE_STEPS)


def test_a_signal_to_one_rank_ends_all_after_the_same_step_and_the_run_goes_on_to_the_same_bytes(
    ranks: list[dict[str, Any]],
) -> None:
    for rank in ranks:
        assert rank["runs"]["said"][0].startswith("interrupted in epoch 1 after step 2 of 3; saved")
        for name, weight in rank["runs"]["backbone"].items():
            assert torch.equal(rank["runs"]["gone on"][name], weight), name


def test_what_two_ranks_began_one_goes_on_with(
    run_params: Pretrain,
    stripes: NDArray[np.uint8],
    folder: Path,
    ranks: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = train(stripes, LABELS, run_params, Checkpoints(folder / "for one"))
    assert "goes on in epoch 1, after step 2 of 3" in capsys.readouterr().out
    assert_close(flat(run.backbone), flat(ranks[0]["runs"]["backbone"]), apart=AFTER_NINE_STEPS)


def test_a_loss_that_one_rank_breaks_ends_all_alike(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert "no longer finite in epoch 2, at step 2 of 3" in rank["runs"]["said"][1]
        assert rank["runs"]["kept"] == ranks[0]["runs"]["kept"]
        assert rank["runs"]["kept"][1] == 2  # the start, and the one whole epoch
