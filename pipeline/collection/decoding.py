"""Files to pixels on every core: each process writes what it decodes to its own row of the arrays."""

import hashlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.collection.sources.collection import Content, Pixels, Span, Unreadable
from pipeline.errors import MachineError
from pipeline.images import UnreadableImageError, check_num_bytes, decode, fit

# Handed to a worker at a time: enough that handing over costs little, and little enough that memory is flat
# and that Ctrl-C, which waits for what was begun, does not wait long.
_IMAGES_AT_ONCE = 64
_BYTES_AT_ONCE = 16 * 2**20
_CHUNKS_WAITING_PER_WORKER = 3


@dataclass(frozen=True, slots=True)
class Place:
    """Where the pixels go, and what they come from."""

    split: str
    row: int
    content: Content


@dataclass(frozen=True, slots=True)
class Read:
    """What a worker says of an image whose pixels it has written."""

    width: int
    height: int
    sha256: bytes


def decode_all(
    places: Iterator[tuple[int, Place]], paths: dict[str, Path], size: int
) -> Iterator[tuple[int, Read | str]]:
    """Decodes every image, in as many processes as there are cores.

    Args:
        places: the number of each image, and its place.
        paths: of the arrays by split, uint8 [N, size, size, 3], in which a place is a row.
        size: height and width in pixels.

    Yields:
        Each number with what was read, or with the reason why it was not; in the order of `places`.

    Raises:
        MachineError: a worker was killed, most likely for want of memory.
    """
    num_workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    waiting: deque[tuple[list[int], Future[list[Read | str]]]] = deque()
    # spawned, not forked: a fork beside another library's threads may never come back
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, context, _start_worker, (paths, size))
    try:
        for numbers, chunk in _chunks(places):
            with _workers_ignore_ctrl_c():
                waiting.append((numbers, pool.submit(_decode_chunk, chunk)))
            if len(waiting) > _CHUNKS_WAITING_PER_WORKER * num_workers:
                done, future = waiting.popleft()
                yield from zip(done, future.result(), strict=True)
        for done, future in waiting:
            yield from zip(done, future.result(), strict=True)
    except BrokenProcessPool:
        raise MachineError(
            "a process that decodes images was killed, most likely for want of memory: free some, or leave "
            "out the largest images"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _workers_ignore_ctrl_c() -> Iterator[None]:
    """Around whatever starts a process: it inherits the blocked signal, which is its parent's to answer."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _chunks(places: Iterator[tuple[int, Place]]) -> Iterator[tuple[list[int], list[Place]]]:
    """Neighbours in one chunk, up to a number of images and of bytes."""
    numbers: list[int] = []
    chunk: list[Place] = []
    num_bytes = 0
    for number, place in places:
        numbers.append(number)
        chunk.append(place)
        num_bytes += _num_bytes(place.content)
        if len(chunk) == _IMAGES_AT_ONCE or num_bytes >= _BYTES_AT_ONCE:
            yield numbers, chunk
            numbers, chunk, num_bytes = [], [], 0
    if chunk:
        yield numbers, chunk


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


_worker_arrays: dict[str, NDArray[np.uint8]] = {}
_worker_size = 0


def _start_worker(paths: dict[str, Path], size: int) -> None:
    global _worker_size
    _worker_size = size
    for split, path in paths.items():
        _worker_arrays[split] = np.load(path, mmap_mode="r+")


def _decode_chunk(chunk: Sequence[Place]) -> list[Read | str]:
    return [_decode_one(place) for place in chunk]


def _decode_one(place: Place) -> Read | str:
    """Writes one image's pixels to their row; what comes back is what was read, or why it was not."""
    content = place.content
    try:
        if isinstance(content, Unreadable):
            return content.reason
        if isinstance(content, Pixels):
            _worker_arrays[place.split][place.row] = fit(content.values, _worker_size)
            return Read(content.width, content.height, bytes.fromhex(content.sha256))
        if isinstance(content, Span):
            content = _read_span(content)
        image = decode(content, _worker_size)
    except UnreadableImageError as error:
        return str(error)
    except OSError as error:
        return error.strerror or type(error).__name__
    except MemoryError:
        return "needs more memory than there is"
    _worker_arrays[place.split][place.row] = image.pixels
    return Read(image.width, image.height, hashlib.sha256(content).digest())


def _read_span(span: Span) -> bytes:
    check_num_bytes(span.length)
    with span.path.open("rb") as file:
        file.seek(span.offset)
        return file.read(span.length)
