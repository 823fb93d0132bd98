"""Workers for tests of engine ray: they say what they do, and one of them dies of it."""

import os
import runpy
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.encoder import shards
from pipeline.encoder.on_ray import rows
from pipeline.encoder.on_ray.rows import ShardsOf, ShardWorker

SMALL = 100  # images of a shard at least: four batches of 32
LOG = Path("embedded.log")  # in the project: a line for each shard that was begun


class Told(ShardWorker):
    """Writes down each shard that it begins.

    Args:
        victim: the process that dies when the fifth shard is begun: 0, the worker itself; None: nobody.
    """

    victim: int | None = None

    def __init__(self, passes: Sequence[ShardsOf], batch_size: int, *, cuda: bool) -> None:
        shards._ROWS_AT_LEAST = SMALL  # in this process too
        super().__init__(passes, batch_size, cuda=cuda)
        self._log = passes[0].shards.parents[3] / LOG
        self._embed_rows = rows.embed_rows

    def __call__(self, item: dict[str, int]) -> int:
        with self._log.open("a") as log:
            log.write(f"{item['pass']} {item['shard']}\n")
        rows.embed_rows = self._dying  # type: ignore[assignment]
        return super().__call__(item)

    def _dying(self, *arguments: Any) -> Iterator[NDArray[np.float32]]:
        """Embeds a batch, and then dies, or the stage does, once."""
        batches = self._embed_rows(*arguments)
        yield next(batches)
        died = self._log.with_name("died")
        if self.victim is not None and not died.exists() and len(self._log.read_text().splitlines()) >= 5:
            died.touch()
            os.kill(self.victim or os.getpid(), signal.SIGKILL)
            time.sleep(60)  # until Ray ends what belonged to the stage
        yield from batches


def main(victim: str) -> None:
    """Stage `embed` in this folder with such workers; `victim` is stage, worker or nobody."""
    Told.victim = {"stage": os.getpid(), "worker": 0, "nobody": None}[victim]

    class Worker(Told):  # not of a module, so that it travels with its victim
        victim = Told.victim

    shards._ROWS_AT_LEAST = SMALL
    on_actors = rows.on_actors
    # not in place of ShardWorker itself, or that would travel too, with its module's names as they were here
    rows.on_actors = lambda _, *arguments: on_actors(Worker, *arguments)
    runpy.run_module("stages.embed", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1])
