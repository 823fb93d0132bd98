"""The training loop: schedule, decay, statistics, held-out part, and the same bytes twice."""

import functools
import gc
import math
import os
import resource
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.backbones import Backbone, build_backbone
from models.methods import METHODS
from pipeline.errors import EXIT_FAULT, MachineError, UserError
from pipeline.params.pretrain import Pretrain
from pipeline.training import learner
from pipeline.training import run as running
from pipeline.training.guards import machine_errors
from pipeline.training.loop import train
from pipeline.training.pixels import pixel_statistics
from pipeline.training.resuming.checkpoint import Checkpoints
from tests.conftest import change_params
from tests.processes import run_stage, start
from tests.tiny_run import LABELS, changed_run


def test_without_labels_the_history_has_no_knn(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    run = train(images, np.full(len(images), -1), tiny)
    assert len(run.history) == tiny.epochs + 1
    assert all(not {"knn_top1", "probe_top1"} & set(row) for row in run.history)
    assert all(row["effective_rank"] >= 1 for row in run.history)


def test_a_run_records_every_epoch_from_the_start_on(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    run = train(images, LABELS, tiny)
    assert [row["epoch"] for row in run.history] == [0, 1, 2]
    assert list(run.history[0]) == [
        *("epoch", "loss", "lr", "top1", "top5", "correlation_accuracy", "alignment", "projection_std"),
        "feature_std",
        *("knn_top1", "probe_top1", "effective_rank", "uniformity"),
    ]
    assert run.history[0]["lr"] == 0
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    assert all(math.isfinite(value) for row in run.history for value in row.values())


@pytest.mark.usefixtures("every_core")
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    tiny: Pretrain, images: NDArray[np.uint8]
) -> None:
    first, again = train(images, LABELS, tiny), train(images, LABELS, tiny)
    other = train(images, LABELS, tiny.model_copy(update={"seed": 1}))
    assert first.history == again.history
    for name, weight in first.backbone.items():
        assert torch.equal(weight, again.backbone[name]), name
    assert not torch.equal(first.backbone["stem.0.weight"], other.backbone["stem.0.weight"])


@pytest.mark.usefixtures("every_core")
def test_labels_watch_and_never_teach(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    first = train(images, LABELS, tiny)
    shuffled = train(images, np.random.default_rng(0).permutation(LABELS), tiny)
    for name, weight in first.backbone.items():
        assert torch.equal(weight, shuffled.backbone[name]), name


def test_training_changes_the_weights_and_keeps_the_start(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    run = train(images, LABELS, tiny)
    torch.manual_seed(tiny.seed)
    fresh = build_backbone("resnet20", width=4, image_size=16).module.state_dict()
    for name, weight in run.start.items():
        assert torch.equal(weight, fresh[name]), name
    assert not torch.equal(run.backbone["stem.0.weight"], run.start["stem.0.weight"])


def test_no_epochs_leave_the_start(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    values = tiny.model_dump() | {"epochs": 0}
    values["optimizer"]["warmup_epochs"] = 0.0
    run = train(images, LABELS, Pretrain.model_validate(values))
    assert len(run.history) == 1
    for name, weight in run.backbone.items():
        assert torch.equal(weight, run.start[name]), name


def test_a_memory_map_trains_as_an_array_does(
    tiny: Pretrain, images: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("images") / "train.npy"
    np.save(path, images)
    mapped = train(np.load(path, mmap_mode="r"), LABELS, tiny)
    assert mapped.history == train(images, LABELS, tiny).history


def test_a_collection_smaller_than_a_batch_is_refused(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    with pytest.raises(UserError, match=r"pretrain\.batch_size: 16 is more than the 9 images"):
        train(images[:10], LABELS[:10], tiny)


def test_a_queue_larger_than_the_collection_is_refused(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    chosen = changed_run(tiny, **{"method": "nnclr", "nnclr.queue_size": 55})
    with pytest.raises(UserError, match=r"pretrain\.nnclr\.queue_size: 55 is more than the 54 images"):
        train(images, LABELS, chosen)
    chosen = changed_run(tiny, **{"method": "nnclr", "nnclr.queue_size": 54, "epochs": 1})
    assert math.isfinite(train(images, LABELS, chosen).history[-1]["loss"])


def test_a_method_has_its_own_learning_rate_or_the_optimizers(
    tiny: Pretrain, images: NDArray[np.uint8]
) -> None:
    assert tiny.peak_lr == ("pretrain.optimizer.lr", 0.05)
    own = changed_run(tiny, **{"simclr.lr": 0.02})
    assert own.peak_lr == ("pretrain.simclr.lr", 0.02)
    assert train(images, LABELS, own).history[1]["lr"] == pytest.approx(0.02)  # the warm-up's last step
    with pytest.raises(UserError, match=r"lower pretrain\.simclr\.lr"):
        train(images, LABELS, changed_run(tiny, **{"simclr.lr": 1e30}))


def test_a_predictor_of_constant_rate_has_it_at_every_step(
    tiny: Pretrain, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    monkeypatch.setattr(learner, "set_learning_rate", lambda _optimizer, lrs: rates.append(lrs["constant"]))
    simsiam = {"method": "simsiam", "simsiam.lr": 0.02, "simsiam.predictor_lr_factor": 5}
    train(images, np.full(len(images), -1), changed_run(tiny, **simsiam))
    assert rates == [pytest.approx(0.1)] * 6


def test_a_loss_that_is_not_finite_stops_the_run(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    values = tiny.model_dump()
    values["optimizer"]["lr"] = 1e30
    line = r"no longer finite in epoch 1, at step 2 of 3 \(learning rate 6\.67e\+29\): lower pretrain\.opt"
    with pytest.raises(UserError, match=line):
        train(images, LABELS, Pretrain.model_validate(values))


def test_bfloat16_trains_too(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    full = train(images, LABELS, tiny.model_copy(update={"precision": "float32"}))
    half = train(images, LABELS, tiny.model_copy(update={"precision": "bfloat16"}))
    assert half.precision == "bfloat16"
    assert half.history != full.history
    # after three steps; later ones part ways with any rounding, that of another number of threads too
    assert half.history[1]["loss"] == pytest.approx(full.history[1]["loss"], rel=0.1)
    assert half.history[-1]["loss"] < half.history[0]["loss"]
    assert all(weight.dtype != torch.bfloat16 for weight in half.backbone.values())


@pytest.mark.usefixtures("every_core")
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_to_the_same_bytes_twice(
    tiny: Pretrain, images: NDArray[np.uint8], method: str
) -> None:
    chosen = changed_run(tiny, **{"method": method, "nnclr.queue_size": 20})
    first, again = train(images, LABELS, chosen), train(images, LABELS, chosen)
    assert first.history[-1]["loss"] < first.history[0]["loss"]
    for name, weight in first.backbone.items():
        assert torch.equal(weight, again.backbone[name]), name


@pytest.mark.usefixtures("every_core")
@pytest.mark.parametrize("method", METHODS)
def test_labels_teach_no_method(tiny: Pretrain, images: NDArray[np.uint8], method: str) -> None:
    chosen = changed_run(tiny, **{"method": method, "nnclr.queue_size": 20})
    first = train(images, LABELS, chosen)
    shuffled = train(images, np.random.default_rng(0).permutation(LABELS), chosen)
    for name, weight in first.backbone.items():
        assert torch.equal(weight, shuffled.backbone[name]), name


@pytest.mark.parametrize("name", ["sgd", "lars", "adam", "adamw"])
def test_every_optimiser_lowers_the_loss(tiny: Pretrain, images: NDArray[np.uint8], name: str) -> None:
    lr = {"sgd": 0.05, "lars": 5.0}.get(name, 0.005)
    run = train(
        images, LABELS, changed_run(tiny, **{"optimizer.name": name, "optimizer.lr": lr, "epochs": 8})
    )
    # from 3.6 to between 2.3 and 2.8, in float32 and in bfloat16
    assert run.history[-1]["loss"] < 0.85 * run.history[0]["loss"]


def test_more_than_two_views_train_simclr(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    run = train(images, LABELS, changed_run(tiny, num_views=3))
    assert run.history[-1]["loss"] < run.history[0]["loss"]


def test_an_accumulated_step_is_the_mean_of_its_batches(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    run = train(images, LABELS, changed_run(tiny, **{"optimizer.accumulate": 3, "epochs": 1}))
    # 54 images to train on are three batches of 16, so one step
    assert len(run.history) == 2
    assert not torch.equal(run.backbone["stem.0.weight"], run.start["stem.0.weight"])
    with pytest.raises(UserError, match=r"16 times optimizer\.accumulate \(4\) is more than the 54 images"):
        train(images, LABELS, changed_run(tiny, **{"optimizer.accumulate": 4}))


def test_early_stopping_takes_the_weights_of_the_lowest_loss(
    tiny: Pretrain, images: NDArray[np.uint8]
) -> None:
    rising = {"optimizer.lr": 3.0, "optimizer.schedule": "constant", "optimizer.warmup_epochs": 0.0}
    chosen = changed_run(tiny, **rising, **{"epochs": 30, "early_stopping.patience": 2, "seed": 3})
    run = train(images, LABELS, chosen)
    losses = [row["loss"] for row in run.history[1:]]
    best = int(np.argmin(losses)) + 1
    assert len(losses) == best + 2 < 30
    stopped_there = train(images, LABELS, changed_run(tiny, **rising, epochs=best, seed=3))
    for name, weight in run.backbone.items():
        assert torch.equal(weight, stopped_there.backbone[name]), name


def test_a_collapse_warns_or_stops_as_params_say(
    tiny: Pretrain, images: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    everything = changed_run(tiny, **{"collapse.threshold": 1.0, "epochs": 1})
    train(images, LABELS, everything)
    assert "warning: epoch 1: the projections collapse" in capsys.readouterr().err
    with pytest.raises(UserError, match="the projections collapse: their standard deviation is"):
        train(images, LABELS, changed_run(everything, **{"collapse.action": "stop"}))


class NearlyConstant(nn.Module):
    """Sixteen features that tell images apart by a ten-thousandth of what all have in common."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 16)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = 1 + 1e-4 * self.linear(images.mean(dim=(2, 3)))
        return features


def test_features_that_collapse_behind_a_batch_norm_are_seen(
    tiny: Pretrain,
    images: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(learner, "build_backbone", lambda *_, **__: Backbone(NearlyConstant(), 16))
    one_epoch = changed_run(tiny, epochs=1, precision="float32")  # bfloat16 rounds such differences away
    run = train(images, LABELS, one_epoch)
    # the batch norm at the end of the projector makes a sphere of them
    assert run.history[-1]["projection_std"] * np.sqrt(tiny.simclr.output_dim) > 0.5
    warnings = capsys.readouterr().err
    assert "warning: epoch 1: the backbone's features collapse: their standard deviation is" in warnings
    assert "projections collapse" not in warnings
    with pytest.raises(UserError, match="the backbone's features collapse") as error:
        train(images, LABELS, changed_run(one_epoch, **{"collapse.action": "stop"}))
    assert "\n" not in str(error.value)


def test_a_backbone_that_cannot_be_built_is_one_line(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    with pytest.raises(UserError, match=r"params\.yaml: pretrain\.backbone: .*resnet19"):
        train(images, LABELS, changed_run(tiny, **{"backbone.name": "timm:resnet19", "backbone.width": None}))


def test_pixels_are_normalised_as_params_say(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    none = {"epochs": 0, "optimizer.warmup_epochs": 0.0}
    half = train(images, LABELS, changed_run(tiny, **none, normalization="half"))
    assert half.statistics.mean == half.statistics.std == (0.5, 0.5, 0.5)
    own = train(images, LABELS, changed_run(tiny, **none, normalization="auto"))
    assert own.statistics == pixel_statistics(images, seed=0)


@pytest.mark.parametrize(("name", "size"), [("timm:vit_tiny_patch16_224", 16), ("conv4", 31)])
def test_a_backbone_of_one_size_says_which_views_fit(
    tiny: Pretrain, images: NDArray[np.uint8], name: str, size: int
) -> None:
    large = np.repeat(np.repeat(images, 2, axis=1), 2, axis=2)  # 32 px
    chosen = changed_run(tiny, **{"backbone.name": name, "backbone.width": None, "views.size": size})
    with pytest.raises(
        UserError, match=rf"^params\.yaml: pretrain\.views\.size: {size}: .*'{name}'"
    ) as error:
        train(large, LABELS, chosen)
    assert str(error.value).endswith("it takes dataset.image_size: set views.size to 32")
    assert "\n" not in str(error.value)


def test_what_a_run_held_goes_when_the_run_does(
    tiny: Pretrain, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when the collector of cycles comes by: on a GPU the next run may need the room."""
    learners = []

    def note(*arguments: Any) -> learner.Learner:
        made = learner.Learner(*arguments)
        learners.append(weakref.ref(made))
        return made

    monkeypatch.setattr(running, "Learner", note)
    gc.disable()
    try:
        train(
            images, LABELS, changed_run(tiny, epochs=1)
        )  # torch imports more at its first, and keeps frames
        learners.clear()
        train(images, LABELS, changed_run(tiny, epochs=1))
        assert [reference() for reference in learners] == [None]
    finally:
        gc.enable()


def watch_memory_in(folder: Path) -> None:
    """In a process of its own: the run of a folder, and the memory that it holds after every epoch."""
    resident = []

    def note(_history: object) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident.append(pages * os.sysconf("SC_PAGE_SIZE"))

    params = Pretrain.model_validate_json((folder / "params.json").read_text())
    images, labels = np.load(folder / "images.npy"), np.load(folder / "labels.npy")
    train(images, labels, params, Checkpoints(folder / "run"), on_epoch=note)
    np.save(folder / "resident.npy", resident)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of Linux")
def test_two_thousand_steps_take_no_more_memory_than_two_hundred(
    tiny: Pretrain, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    """With a queue, and each epoch of a hundred steps measured and saved; in a process of its own."""
    # the smallest network that there is: what could grow is not its own
    network = {"backbone.name": "conv4", "backbone.width": 8, "views.size": 32}
    sizes = {"epochs": 20, "batch_size": 5, "nnclr.queue_size": 200}
    chosen = changed_run(tiny, **{"method": "nnclr"} | network | sizes)
    (tmp_path / "params.json").write_text(chosen.model_dump_json())
    large = np.repeat(np.repeat(images, 2, axis=1), 2, axis=2)
    np.save(tmp_path / "images.npy", np.tile(large, (10, 1, 1, 1)))
    np.save(tmp_path / "labels.npy", np.tile(LABELS, 10))
    process = start(watch_memory_in, tmp_path)
    process.join()
    assert process.exitcode == 0
    resident = np.load(tmp_path / "resident.npy")
    assert len(resident) == 21
    assert max(resident[2:]) - resident[2] < 8 << 20


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_learns_what_the_run_as_written_learns(
    tiny: Pretrain, images: NDArray[np.uint8]
) -> None:
    # a small network: a compiler takes a second a layer
    written, compiled = (
        train(
            images,
            LABELS,
            changed_run(tiny, **{"backbone.name": "resnet10"}, compile=is_compiled, precision="float32"),
        )
        for is_compiled in (False, True)
    )
    assert list(compiled.backbone) == list(written.backbone)
    # the first epoch; fused sums round otherwise, and later steps part ways
    assert compiled.history[1]["loss"] == pytest.approx(written.history[1]["loss"], rel=0.02)


def lose_the_compiler() -> None:
    """Before the stage; with an empty cache, since what was compiled before would be taken from it."""
    os.environ |= {"CXX": "none", "TORCHINDUCTOR_CACHE_DIR": "compiled"}


@pytest.mark.slow
def test_without_a_compiler_a_compiled_run_is_refused_in_one_line(chain_copy: Path) -> None:
    small = {"pretrain.backbone.name": "resnet10", "pretrain.backbone.width": 4}
    change_params(chain_copy / "params.yaml", {"pretrain.compile": True} | small)
    before = (chain_copy / "data/pretrain/backbone.safetensors").read_bytes()
    done = run_stage("pretrain", chain_copy, check=False, before=lose_the_compiler)
    assert done.returncode == EXIT_FAULT
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        "error: pretrain.compile is true, but torch cannot compile"
    )
    assert (chain_copy / "data/pretrain/backbone.safetensors").read_bytes() == before


def take_no_more_than(num_bytes: int) -> None:
    """Before a stage: so much memory on top of what the process has mapped already."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + num_bytes, mapped + num_bytes))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of Linux")
def test_memory_that_is_full_is_one_line(chain_copy: Path) -> None:
    # a batch of views takes 1,024 x 3 x 256 x 256 x 4 bytes, 768 MiB
    large = {"pretrain.batch_size": 1024, "pretrain.views.size": 256, "pretrain.device": "cpu"}
    change_params(chain_copy / "params.yaml", large)
    limit = functools.partial(take_no_more_than, 700 << 20)
    done = run_stage("pretrain", chain_copy, check=False, before=limit)
    assert done.returncode == EXIT_FAULT, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "error: this machine's memory is full at pretrain.batch_size 1024 and pretrain.views.size 256: lower "
        "one (and raise pretrain.optimizer.accumulate, so that a step takes as many images), or use a "
        "smaller backbone"
    )


def test_numpys_memory_that_is_full_is_the_same_line(tiny: Pretrain) -> None:
    line = r"this machine's memory is full at pretrain\.batch_size 16 and"
    with pytest.raises(MachineError, match=line), machine_errors(tiny):
        np.empty(1 << 62, dtype=np.uint8)
    with pytest.raises(MachineError, match=line), machine_errors(tiny):
        torch.empty(1 << 60, dtype=torch.uint8)
