"""Ctrl-C and SIGTERM, kept until the work at hand can be saved."""

import signal
import threading
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

    def note(self, number: int, _frame: FrameType | None) -> None:
        """Remembers the signal; the next one is obeyed at once."""
        self.signal = number
        for each in _SIGNALS:
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred_interrupts(*, active: bool) -> Iterator[Interrupts]:
    """In the block SIGINT and SIGTERM are noted and not obeyed; a second one is.

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
