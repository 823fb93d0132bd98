"""The log on standard error: written in pieces, since a write a request costs more than its line."""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TextIO

_FLUSHED_EVERY_S = 0.25


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """The service's lines go to standard error, those of warnings at once and all others soon."""
    handler = _Pieces(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (("lookalike", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(level)
    # what nobody writes
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    done = threading.Event()
    flusher = threading.Thread(target=handler.flush_until, args=(done,), daemon=True)
    flusher.start()
    try:
        yield
    finally:
        done.set()
        flusher.join()
        handler.flush()


class _Pieces(logging.StreamHandler[TextIO]):
    """Lines that wait to be written together."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record) + "\n")
        if record.levelno >= logging.WARNING:
            self.flush()

    def flush(self) -> None:
        with self.lock or nullcontext():
            lines, self._lines = self._lines, []
            if lines:
                self.stream.write("".join(lines))
                self.stream.flush()

    def flush_until(self, done: threading.Event) -> None:
        """Writes what has come, again and again."""
        while not done.wait(_FLUSHED_EVERY_S):
            self.flush()
