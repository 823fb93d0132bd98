"""What is kept of every batch: little, in order, and on the CPU once it was read."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from models.objective import Step
from pipeline.training.monitoring import epoch_log
from pipeline.training.monitoring.epoch_log import EpochLog, scalars


def numbers(batch: int) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(float(batch)), "top1": torch.tensor(batch / 7)}


@pytest.mark.parametrize("left_on_device", [1, 3, 100])
@pytest.mark.parametrize("cut_off_after", [0, 4, 10])
def test_every_batch_stands_in_its_place_whenever_it_is_read(
    left_on_device: int, cut_off_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoch_log, "_LEFT_ON_DEVICE", left_on_device)
    log = EpochLog()
    for batch in range(10):
        if batch == cut_off_after:
            log = EpochLog(log.columns())
        log.add(numbers(batch))
        if batch == 6:
            assert log.columns()["loss"].tolist() == list(range(7))
    columns = log.columns()
    assert list(columns) == ["loss", "top1"]
    assert columns["loss"].tolist() == list(range(10))
    assert columns["top1"].tolist() == torch.stack([numbers(batch)["top1"] for batch in range(10)]).tolist()


def test_a_log_that_goes_on_from_a_checkpoint_takes_the_numbers_of_a_gpu() -> None:
    with FakeTensorMode():
        log = EpochLog({"loss": torch.zeros(3)})
        log.add({"loss": torch.zeros((), device="cuda")})
        assert log.columns()["loss"].device.type == "cpu"
        assert log.columns()["loss"].shape == (4,)


def test_no_more_than_so_many_numbers_are_left_on_the_device() -> None:
    log = EpochLog()
    for batch in range(2000):
        log.add(numbers(batch))
        assert len(log._unread) < epoch_log._LEFT_ON_DEVICE


def test_what_is_kept_of_a_step_holds_no_tensor_of_its_batch() -> None:
    """A view of the features, however short, would keep them all in memory until the epoch ends."""
    features = torch.randn(256, 64)
    step = Step(features.sum() * 1.0, {"top1": torch.tensor(0.5)}, features)
    kept = scalars(step)
    assert list(kept) == ["loss", "top1", "feature_std"]
    assert sum(value.untyped_storage().nbytes() for value in kept.values()) <= 3 * 8
