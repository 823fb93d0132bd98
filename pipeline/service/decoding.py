"""Images decoded by processes of their own; one that dies, or takes too long, costs its image alone."""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.images import UnreadableImageError
from pipeline.service.decoder import JOB, LENGTH, OUTCOME, READ
from pipeline.service.limits import Limits

# What a process is handed at once: what waits while it is busy, up to so many images or bytes.
_IMAGES_AT_ONCE = 16
_BYTES_AT_ONCE = 8 << 20
# One may be chance, as where the system is short of memory; two are the image's fault.
_DEATHS_OF_ONE_IMAGE = 2
_TRIED_AGAIN_S = 1.0

_log = logging.getLogger("lookalike.service")


@dataclass(eq=False)
class _Job:
    content: bytes
    size: int
    pixels: "asyncio.Future[NDArray[np.uint8]]"
    num_deaths: int = 0  # of processes that had it in hand


class _DecoderDiedError(Exception):
    """The process ended, or was ended, before it had answered."""


@dataclass(eq=False)
class Decoders:
    """A few processes that decode.

    Attributes:
        limits: of an image.
        on_death: called when one of them has died.
    """

    limits: Limits
    on_death: Callable[[], None]
    _jobs: "asyncio.Queue[_Job]" = field(default_factory=asyncio.Queue)
    _tasks: "list[asyncio.Task[None]]" = field(default_factory=list)

    def start(self, num_processes: int) -> None:
        """Starts them; the first images wait until they are up."""
        self._tasks = [asyncio.create_task(self._work()) for _ in range(num_processes)]

    async def stop(self) -> None:
        """Ends them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def decode(self, content: bytes, size: int) -> NDArray[np.uint8]:
        """The pixels of an image file, uint8 [size, size, 3]; see `pipeline.images.decode`.

        Raises:
            UnreadableImageError: it is no image that is read, or its decoder died of it.
        """
        job = _Job(content, size, asyncio.get_running_loop().create_future())
        self._jobs.put_nowait(job)
        return await job.pixels

    async def _work(self) -> None:
        """One process after the other, as long as the server runs."""
        while True:
            try:
                process = await _start()
            except OSError as error:  # no process, file or memory to spare just now
                _log.error("no process to decode with, tried again in %g s: %s", _TRIED_AGAIN_S, error)
                await asyncio.sleep(_TRIED_AGAIN_S)
                continue
            try:
                while True:
                    jobs = await self._take()
                    if process.returncode is not None:  # it died of nothing that was asked of it
                        self._put_back(jobs)
                        raise _DecoderDiedError
                    await self._answer(process, jobs)
            except _DecoderDiedError:
                self.on_death()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def _take(self) -> list[_Job]:
        """What waits, of one size; whose client has gone is left out."""
        taken: list[_Job] = []
        while not taken:
            job = await self._jobs.get()
            num_bytes = 0
            while True:
                if not job.pixels.done():
                    taken.append(job)
                    num_bytes += len(job.content)
                if len(taken) >= _IMAGES_AT_ONCE or num_bytes >= _BYTES_AT_ONCE or self._jobs.empty():
                    break
                job = self._jobs.get_nowait()
        return taken

    async def _answer(self, process: asyncio.subprocess.Process, jobs: Sequence[_Job]) -> None:
        """Has jobs done, in their order; of those that a dying process leaves, the first one is to blame."""
        for size in sorted({job.size for job in jobs}):
            alike = [job for job in jobs if job.size == size]
            num_done, has_begun = 0, False
            try:
                _send(process, alike, size, self.limits.pixels)
                for job in alike:
                    has_begun = False
                    async with asyncio.timeout(self.limits.request_s):  # a process that starts takes a while
                        await _receive(process)
                    has_begun = True
                    async with asyncio.timeout(self.limits.decode_s):
                        outcome = await _receive(process)
                    num_done += 1
                    if not job.pixels.done():
                        _settle(job, outcome)
            except (_DecoderDiedError, TimeoutError) as error:
                if has_begun:
                    self._blame(alike[num_done], isinstance(error, TimeoutError))
                self._put_back([*alike[num_done:], *(job for job in jobs if job.size > size)])
                raise _DecoderDiedError from None

    def _blame(self, job: _Job, is_late: bool) -> None:
        job.num_deaths += 1
        if is_late:
            _refuse(job, f"takes longer than {self.limits.decode_s:g} s to decode")
        elif job.num_deaths == _DEATHS_OF_ONE_IMAGE:
            _refuse(job, "damaged image (its decoder crashed)")

    def _put_back(self, jobs: Sequence[_Job]) -> None:
        """Those that are not refused are tried again."""
        for job in jobs:
            if not job.pixels.done():
                self._jobs.put_nowait(job)


async def _start() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "pipeline.service.decoder"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,  # Ctrl-C is the server's to answer
    )


def _send(process: asyncio.subprocess.Process, jobs: Sequence[_Job], size: int, max_pixels: int) -> None:
    """Without waiting: a process that nobody listens to takes no more, and then neither would get on."""
    assert process.stdin is not None
    header = JOB.pack(size, max_pixels, len(jobs)) + b"".join(LENGTH.pack(len(job.content)) for job in jobs)
    try:
        process.stdin.writelines([header, *(job.content for job in jobs)])
    except (OSError, RuntimeError):  # asyncio's and uvloop's words for a pipe that is closed
        raise _DecoderDiedError from None


async def _receive(process: asyncio.subprocess.Process) -> tuple[int, bytes]:
    assert process.stdout is not None
    try:
        is_read, length = OUTCOME.unpack(await process.stdout.readexactly(OUTCOME.size))
        return is_read, await process.stdout.readexactly(length)
    except asyncio.IncompleteReadError:
        raise _DecoderDiedError from None


def _refuse(job: _Job, reason: str) -> None:
    if not job.pixels.done():
        job.pixels.set_exception(UnreadableImageError(reason))


def _settle(job: _Job, outcome: tuple[int, bytes]) -> None:
    is_read, payload = outcome
    if is_read == READ:
        job.pixels.set_result(np.frombuffer(payload, dtype=np.uint8).reshape(job.size, job.size, 3))
    else:
        job.pixels.set_exception(UnreadableImageError(payload.decode()))
