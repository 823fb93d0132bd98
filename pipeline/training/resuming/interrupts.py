"""Ctrl-C and SIGTERM, kept until the work at hand can be saved."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """The signal that came, if one did.

    Attributes:
        signal: its number, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._noted = 0.0

    def note(self, number: int, _frame: FrameType | None) -> None:
        """Remembers the signal; the next one is obeyed at once."""
        if self.signal is None:
            self.signal, self._noted = number, time.monotonic()
        elif time.monotonic() - self._noted > _ONE_REQUEST_S:
            for each in _SIGNALS:
                signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
            signal.raise_signal(number)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A terminal's Ctrl-C reaches every process of a run, and then whoever started them passes it on (torchrun as
# SIGTERM): that is the same request.
_ONE_REQUEST_S = 1.0


@contextmanager
def deferred_interrupts(*, active: bool) -> Iterator[Interrupts]:
    """In the block SIGINT and SIGTERM are noted and not obeyed; a second one is, a second later.

    Nothing is noted unless it is active, nor in a thread other than the main one, where Python lets nobody
    handle signals.
    """
    interrupts = Interrupts()
    if not active or threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before = {each: signal.signal(each, interrupts.note) for each in _SIGNALS}
    try:
        yield interrupts
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
