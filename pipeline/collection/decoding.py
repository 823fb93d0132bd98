"""Files to pixels on every core: each process writes what it decodes to its own row of the arrays.

A decoder that crashes takes its process along, and with it all that the pool had waiting. These images are
then decoded one by one in a process of their own, so that it is known which of them it was.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection

from pipeline.collection.sources.collection import Content, Pixels, Span, Unreadable
from pipeline.collection.worker import Job, Place, Read, Worker
from pipeline.errors import EXIT_FAULT, MachineError

# Handed to a worker at a time: enough that handing over costs little, and little enough that memory is flat
# and that Ctrl-C, which waits for what was begun, does not wait long.
_IMAGES_AT_ONCE = 64
_BYTES_AT_ONCE = 16 * 2**20
_CHUNKS_WAITING_PER_WORKER = 3

Chunk = list[tuple[int, Place]]

# spawned, not forked: a fork beside another library's threads may never come back
_SPAWN = multiprocessing.get_context("spawn")


def decode_all(
    places: Iterator[tuple[int, Place]],
    job: Job,
    name_of: Callable[[int], str],
    num_workers: int | None = None,
) -> Iterator[tuple[int, Read | str]]:
    """Decodes every image, in processes of its own.

    Args:
        places: the number of each image, and its place.
        job: the arrays, in which a place is a row.
        name_of: what a person knows the image of a number by.
        num_workers: processes; None: as many as there are cores.

    Yields:
        Each number with what was read, or with the reason why it was not; in the order of `places`.

    Raises:
        MachineError: the process of an image was killed twice, most likely for want of memory.
    """
    num_workers = num_workers or _num_workers()
    waiting: deque[tuple[Chunk, Future[list[Read | str]]]] = deque()
    pool, alone = _Pool(num_workers, job), _Alone(job)
    try:
        for chunk in _chunks(places):
            waiting.append((chunk, pool.submit([place for _, place in chunk])))
            if len(waiting) > _CHUNKS_WAITING_PER_WORKER * num_workers:
                yield from _outcomes(*waiting.popleft(), alone, name_of)
        while waiting:
            yield from _outcomes(*waiting.popleft(), alone, name_of)
    finally:
        pool.close()
        alone.close()


def most_under_way(num_workers: int | None = None) -> int:
    """Images at most that `decode_all` has taken from `places` and not yet yielded."""
    # a chunk that is handed out and one that is gathered, beside those that wait
    return (_CHUNKS_WAITING_PER_WORKER * (num_workers or _num_workers()) + 2) * _IMAGES_AT_ONCE


def _num_workers() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _outcomes(
    chunk: Chunk, future: Future[list[Read | str]], alone: "_Alone", name_of: Callable[[int], str]
) -> Iterator[tuple[int, Read | str]]:
    try:
        outcomes = future.result()
    except BrokenProcessPool:
        for number, place in chunk:
            yield number, alone.decode(place, name_of(number))
    else:
        yield from zip((number for number, _ in chunk), outcomes, strict=True)


class _Pool:
    """Processes that decode a chunk each; when one has died, others take the place of all."""

    def __init__(self, num_workers: int, job: Job) -> None:
        self._num_workers, self._job = num_workers, job
        self._executor = self._start()

    def submit(self, chunk: list[Place]) -> Future[list[Read | str]]:
        with _workers_ignore_ctrl_c():
            try:
                return self._executor.submit(_decode_chunk, chunk)
            except BrokenProcessPool:
                self.close()
                self._executor = self._start()
                return self._executor.submit(_decode_chunk, chunk)

    def close(self) -> None:
        _let_go_of_what_nobody_reads(self._executor)
        self._executor.shutdown(cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self._num_workers, _SPAWN, _start_worker, (self._job,))


def _let_go_of_what_nobody_reads(executor: ProcessPoolExecutor) -> None:
    """Before Python 3.11.5 a pool whose worker died half-way through a chunk waits for ever for its end.

    The thread that writes to the workers stands in a pipe that is full and that nobody reads any more
    (python/cpython#94777, whose mend this is).
    """
    if sys.version_info >= (3, 11, 5) or not getattr(executor, "_broken", False):
        return
    queue = getattr(executor, "_call_queue", None)  # none where it has ended
    if queue is not None:
        queue._reader.close()


class _Alone:
    """A process that decodes one image at a time, started anew when one of them was its end."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._process: multiprocessing.process.BaseProcess | None = None

    def decode(self, place: Place, name: str) -> Read | str:
        if self._process is None:
            self._start()
        assert self._process is not None
        try:
            self._connection.send(place)
            outcome: Read | str = self._connection.recv()
            return outcome
        except (EOFError, OSError):  # there is nobody at the other end
            self._process.join()
            code = self._process.exitcode
        self.close()
        if code == -signal.SIGKILL:
            raise MachineError(
                f"{name}: the process that decodes it was killed, most likely for want of memory: free some, "
                "or leave this image out"
            )
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return f"crashes its decoder ({how})"

    def close(self) -> None:
        if self._process is not None:
            self._connection.close()  # which it takes for its end
            self._process.join()
            self._process = None

    def _start(self) -> None:
        self._connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_decode_alone, args=(theirs, self._job))
        with _workers_ignore_ctrl_c():
            self._process.start()
        theirs.close()  # or its end would not be the end of the pipe


@contextmanager
def _workers_ignore_ctrl_c() -> Iterator[None]:
    """Around whatever starts a process: it inherits the blocked signal, which is its parent's to answer."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _chunks(places: Iterator[tuple[int, Place]]) -> Iterator[Chunk]:
    """Neighbours in one chunk, up to a number of images and of bytes."""
    chunk: Chunk = []
    num_bytes = 0
    for number, place in places:
        chunk.append((number, place))
        num_bytes += _num_bytes(place.content)
        if len(chunk) == _IMAGES_AT_ONCE or num_bytes >= _BYTES_AT_ONCE:
            yield chunk
            chunk, num_bytes = [], 0
    if chunk:
        yield chunk


def _num_bytes(content: Content) -> int:
    match content:
        case bytes():
            return len(content)
        case Span():
            return content.length
        case Pixels():
            return content.values.nbytes
        case Unreadable():
            return 0


_worker: Worker


def _start_worker(job: Job) -> None:
    global _worker
    _worker = Worker(job)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for its next chunk for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(EXIT_FAULT)


def _decode_chunk(chunk: Sequence[Place]) -> list[Read | str]:
    return [_worker.decode(place) for place in chunk]


def _decode_alone(connection: Connection, job: Job) -> None:
    worker = Worker(job)
    while True:
        try:
            place = connection.recv()
        except EOFError:
            return
        connection.send(worker.decode(place))
