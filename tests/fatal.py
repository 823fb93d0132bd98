"""Image files that are the end of the process that decodes them, which imports this file and no more."""

import ctypes
import os
import signal
from pathlib import Path


class Fatal(bytes):
    """An image file whose decoder dies: looking at the bytes reads from address 0, aborts, or is killed."""

    how = signal.SIGSEGV

    def __bool__(self) -> bool:
        if self.how == signal.SIGSEGV:
            ctypes.string_at(0)
        os.kill(os.getpid(), self.how)
        return True


class Aborting(Fatal):
    how = signal.SIGABRT


class Killed(Fatal):
    how = signal.SIGKILL


class KilledOnce(bytes):
    """The first time that it is looked at, the process is killed; the folder in the environment remembers."""

    def __bool__(self) -> bool:
        remembered = Path(os.environ["KILLED_ONCE"])
        if not remembered.exists():
            remembered.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return True
