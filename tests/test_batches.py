"""Batches come in order, whole, and ahead of the step that needs them."""

import threading

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.training.batches import Batches

CPU = torch.device("cpu")


def numbered(count: int) -> NDArray[np.uint8]:
    """Image i is of grey i."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 4, 3)).copy()


def test_every_batch_is_the_images_of_its_rows_in_order() -> None:
    rng = np.random.default_rng(0)
    asked = [rng.permutation(50)[:size] for size in (8, 8, 1, 8, 3, 8, 8)]
    got = list(Batches(numbered(50), CPU).read(asked))
    assert len(got) == len(asked)
    for rows, (same_rows, batch) in zip(asked, got, strict=True):
        assert same_rows is rows
        assert batch.dtype == torch.uint8
        np.testing.assert_array_equal(batch.numpy(), numbered(50)[rows])


class Recorded:
    """Images that say which thread read them."""

    def __init__(self) -> None:
        self.images = numbered(50)
        self.threads: list[str] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]:
        self.threads.append(threading.current_thread().name)
        return self.images[rows]


def test_the_next_batches_are_read_by_a_thread_while_one_is_used() -> None:
    images = Recorded()
    batches = Batches(images, CPU).read([np.array([i]) for i in range(6)])
    rows, batch = next(batches)
    assert (rows[0], int(batch[0, 0, 0, 0])) == (0, 0)
    batches.close()  # a run that stops here waits for what was asked for, and for no more
    assert len(images.threads) == 3
    assert all(name.startswith("read-ahead") for name in images.threads)


def test_an_image_that_cannot_be_read_is_said_at_its_batch() -> None:
    batches = Batches(numbered(5), CPU).read([np.array([0]), np.array([99])])
    next(batches)
    with pytest.raises(IndexError, match="99"):
        next(batches)
