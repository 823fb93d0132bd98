"""What a request may ask for, and how much is under way at once: the service refuses early, and by name."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.service.problems import Problem

FULL = 503
RETRY_AFTER_S = 1  # a queue that is full has moved on by then


@dataclass(frozen=True)
class Limits:
    """The bounds of one server.

    Attributes:
        body_bytes: of one request.
        json_bytes: of one body of JSON, which is read while all others wait: 64 embeddings of 2,048 numbers.
        pixels: of one image, looked up in its header before it is decoded.
        images: of one request; embeddings likewise.
        k: neighbours of each.
        rows: of one listing of the collection.
        request_s: until a request has come whole and is answered.
        decode_s: of one image.
        header_bytes: of one request's line and headers.
        header_s: until they have come whole.
        connections: open at once.
        waiting_images: that are decoded, encoded or searched for at once, or wait for it.
        waiting_bytes: of the bodies of all requests at once.
        batch_images: that the encoder is given at a time.
    """

    body_bytes: int = 32 << 20
    json_bytes: int = 4 << 20
    pixels: int = 50_000_000
    images: int = 64
    k: int = 1_000
    rows: int = 1_000
    request_s: float = 30.0
    decode_s: float = 10.0
    header_bytes: int = 16 << 10
    header_s: float = 10.0
    connections: int = 1_000
    waiting_images: int = 1_024
    waiting_bytes: int = 256 << 20
    batch_images: int = 64


class Room:
    """How much is under way; who asks for more than there is room for is told to come again."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.num_images = 0
        self.num_bytes = 0

    @contextmanager
    def bytes(self) -> Iterator[Callable[[int], None]]:
        """Gives what takes room for a part of a body, or raises a Problem where those under way fill it."""
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            if self.num_bytes + count > self._limits.waiting_bytes:
                raise full(f"{self._limits.waiting_bytes:,} bytes of requests are under way")
            self.num_bytes += count
            taken += count

        try:
            yield take
        finally:
            self.num_bytes -= taken

    @contextmanager
    def images(self, count: int) -> Iterator[None]:
        """Takes room for images or embeddings.

        Raises:
            Problem: 503, those that are under way fill it.
        """
        if self.num_images + count > self._limits.waiting_images:
            raise full(f"{self._limits.waiting_images:,} images are under way")
        self.num_images += count
        try:
            yield
        finally:
            self.num_images -= count


def full(what: str) -> Problem:
    """That there is no room now."""
    return Problem(
        FULL,
        "full",
        f"{what}, as many as there may be: ask again in {RETRY_AFTER_S} s",
        retry_after=RETRY_AFTER_S,
    )


def ending() -> Problem:
    """That the server ends before the answer is there."""
    return Problem(
        FULL,
        "ending",
        "the server is being stopped: ask again when it is back",
        retry_after=RETRY_AFTER_S,
        close=True,
    )


def late(limits: Limits) -> Problem:
    """That a request took too long."""
    return Problem(
        FULL,
        "late",
        f"it took longer than {limits.request_s:g} s: ask again, or ask for less",
        retry_after=RETRY_AFTER_S,
        close=True,
    )
