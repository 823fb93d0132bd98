"""Requests that come together are encoded and searched for together: one queue, one thread, no timer.

A batch is what waits when the thread is free, as in text-embeddings-inference's queue: under little load a
request goes alone and at once, under much the batches grow by themselves.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.search.image_index import ImageIndex, Neighbor

# Q queries, D dimensions


@dataclass(frozen=True)
class Ask:
    """What is wanted of a search; equal ones are searched for together."""

    k: int
    split: str | None = None
    class_name: str | None = None
    min_score: float | None = None


@dataclass(eq=False)
class Job:
    """A request's images or embeddings, and what becomes of them.

    Attributes:
        index: that was current when the request came; it is answered by this one and its encoder.
        queries: pixels, uint8 [Q, H, W, 3], or embeddings, float32 [Q, D], or ids, int64 [Q].
        ask: None where the embeddings are what is asked for.
        has_gone: whether nobody waits for it any more.
        done: a list of neighbours a query, or embeddings, float32 [Q, D].
    """

    index: ImageIndex
    queries: "NDArray[np.uint8] | NDArray[np.float32] | NDArray[np.int64]"
    ask: Ask | None
    has_gone: Callable[[], bool]
    done: "asyncio.Future[list[list[Neighbor]] | NDArray[np.float32]]"
    came: float = field(default_factory=time.perf_counter)


class GoneError(Exception):
    """A client has gone before its turn."""


class Watch(Protocol):
    """Who counts what the batcher does."""

    def batch(self, num_images: int, waited_s: Sequence[float]) -> None:
        """A batch was taken."""

    def skipped(self) -> None:
        """A client has gone before its turn."""


class Batcher:
    """The queue and the thread that empties it."""

    def __init__(self, max_images: int, watch: Watch) -> None:
        self._max_images, self._watch = max_images, watch
        self._waiting: deque[Job] = deque()
        self._is_waited_for = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to take jobs."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ends; what is under way is finished."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown()

    def put(
        self,
        index: ImageIndex,
        queries: "NDArray[np.uint8] | NDArray[np.float32] | NDArray[np.int64]",
        ask: Ask | None,
        has_gone: Callable[[], bool],
    ) -> Job:
        """Queues a job; await its `done`.

        `done` raises UserError: there is no such id, split or class, or the index cannot do what is asked;
        GoneError: it was skipped.
        """
        job = Job(index, queries, ask, has_gone, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._is_waited_for.set()
        return job

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._is_waited_for.wait()
            if not (batch := self._take()):
                self._is_waited_for.clear()
                continue
            try:
                outcomes = await loop.run_in_executor(self._thread, _answers, batch)
            except Exception as error:  # of a bug, or of memory: theirs alone, the queue goes on
                outcomes = [error] * len(batch)
            for job, outcome in zip(batch, outcomes, strict=True):
                if job.done.done():
                    continue
                if isinstance(outcome, Exception):
                    job.done.set_exception(outcome)
                else:
                    job.done.set_result(outcome)

    def _take(self) -> list[Job]:
        """What waits, of one generation, up to `max_images`."""
        batch: list[Job] = []
        num_images = 0
        while self._waiting:
            job = self._waiting[0]
            if job.done.done() or job.has_gone():
                self._waiting.popleft()
                self._watch.skipped()
                if not job.done.done():
                    job.done.set_exception(GoneError())
                continue
            if batch and (
                job.index is not batch[0].index or num_images + len(job.queries) > self._max_images
            ):
                break
            batch.append(self._waiting.popleft())
            num_images += len(job.queries)
        if batch:
            now = time.perf_counter()
            self._watch.batch(num_images, [now - job.came for job in batch])
        return batch


def _answers(batch: Sequence[Job]) -> "list[list[list[Neighbor]] | NDArray[np.float32] | Exception]":
    """The outcome of each job of one generation; one that fails fails alone."""
    outcomes: dict[Job, list[list[Neighbor]] | NDArray[np.float32] | Exception] = {}
    ready: list[tuple[Job, NDArray[np.float32], NDArray[np.int64]]] = []
    for job, embeddings in _embedded(batch):
        if isinstance(embeddings, Exception) or job.ask is None:
            outcomes[job] = embeddings
        else:
            ready.append((job, embeddings, _own_ids(job)))
    ready.sort(key=lambda each: hash(each[0].ask))
    for ask, alike in groupby(ready, key=lambda each: each[0].ask):
        outcomes |= _found(list(alike), ask)
    return [outcomes[job] for job in batch]


def _embedded(batch: Sequence[Job]) -> "list[tuple[Job, NDArray[np.float32] | Exception]]":
    """The embeddings of each job: all pixels in one go through the encoder."""
    index = batch[0].index
    of_pixels = [job for job in batch if job.queries.dtype == np.uint8]
    embedded: list[tuple[Job, NDArray[np.float32] | Exception]] = []
    if of_pixels:
        all_of_them = index.encoder(np.concatenate([job.queries for job in of_pixels]))
        ends = np.cumsum([len(job.queries) for job in of_pixels])
        embedded += zip(of_pixels, np.split(all_of_them, ends[:-1]), strict=True)
    for job in batch:
        if job.queries.dtype == np.int64:
            try:
                embedded.append((job, np.stack([index.embedding(id_) for id_ in job.queries.tolist()])))
            except UserError as error:
                embedded.append((job, error))
        elif job.queries.dtype == np.float32:
            embedded.append((job, np.asarray(job.queries, dtype=np.float32)))
    return embedded


def _own_ids(job: Job) -> "NDArray[np.int64]":
    is_by_id = job.queries.dtype == np.int64
    return np.array(job.queries if is_by_id else [-1] * len(job.queries), dtype=np.int64)


def _found(
    alike: "Sequence[tuple[Job, NDArray[np.float32], NDArray[np.int64]]]", ask: Ask | None
) -> "dict[Job, list[list[Neighbor]] | NDArray[np.float32] | Exception]":
    """The neighbours of jobs that ask for the same."""
    assert ask is not None
    jobs = [job for job, _, _ in alike]
    index = jobs[0].index
    try:
        answers = iter(
            index.answers_of(
                np.concatenate([embeddings for _, embeddings, _ in alike]),
                np.concatenate([own_ids for _, _, own_ids in alike]),
                min(ask.k, len(index)),
                split=ask.split,
                class_name=ask.class_name,
                min_score=ask.min_score,
            )
            if len(index)
            else [[] for job in jobs for _ in job.queries]
        )
    except UserError as error:
        return dict.fromkeys(jobs, error)
    return {job: [next(answers) for _ in job.queries] for job in jobs}
