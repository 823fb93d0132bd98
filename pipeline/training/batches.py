"""Batches of the collection, on the device that trains, read ahead of the step that needs them."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.training.distributed.world import ALONE, World
from pipeline.training.pixels import Images

# B batch

Rows = NDArray[np.int64]

_AHEAD = 2
# of a GPU's free memory, at most so much for the collection: the rest is for the network
_SHARE_OF_FREE_MEMORY = 0.5
_ROWS_AT_ONCE = 4096


class Batches:
    """The collection as uint8 batches on a device.

    On a GPU that has the room, it lives there; else, and on the CPU, a thread reads the next batches from the
    memory map while a step runs, and a GPU gets them from pinned memory without waiting.

    Args:
        images: uint8 [N, H, W, 3].
        device: that the batches are for.
        world: of each batch this rank's share is read alone.
    """

    def __init__(self, images: Images, device: torch.device, world: World = ALONE) -> None:
        self._images, self._device, self._world = images, device, world
        self._resident: Tensor | None = None
        if device.type == "cuda":
            first = images[np.zeros(1, dtype=np.int64)]
            free, _ = torch.cuda.mem_get_info(device)
            if len(images) * first.nbytes <= _SHARE_OF_FREE_MEMORY * free:
                # filled in place: chunks put together at the end would take the room twice
                shape = (len(images), *first.shape[1:])
                self._resident = torch.empty(shape, dtype=torch.uint8, device=device)
                for start in range(0, len(images), _ROWS_AT_ONCE):
                    rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(images)))
                    self._resident[start : start + len(rows)] = torch.from_numpy(images[rows])

    def read(self, batches: Iterable[Rows]) -> Iterator[tuple[Rows, Tensor]]:
        """Each batch of rows with its images, uint8 [B, H, W, 3] on the device, in the given order.

        Of several ranks each gets all rows, and the images of its share.
        """
        if self._resident is not None:
            for rows in batches:
                # copied without waiting, or the GPU would stand still until the next step reaches it
                own = torch.from_numpy(self._own(rows)).to(self._device, non_blocking=True)
                yield rows, self._resident[own]
            return
        pending: deque[tuple[Rows, Future[Tensor]]] = deque()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as reader:
            for rows in batches:
                pending.append((rows, reader.submit(self._load, rows)))
                if len(pending) > _AHEAD:
                    yield self._arrived(*pending.popleft())
            while pending:
                yield self._arrived(*pending.popleft())

    def _own(self, rows: Rows) -> Rows:
        share = self._world.share(len(rows))
        return rows if share is None else rows[share.rows]

    def _load(self, rows: Rows) -> Tensor:
        batch = torch.from_numpy(self._images[self._own(rows)])
        return batch.pin_memory() if self._device.type == "cuda" else batch

    def _arrived(self, rows: Rows, batch: Future[Tensor]) -> tuple[Rows, Tensor]:
        return rows, batch.result().to(self._device, non_blocking=True)
