"""Image files that are the end of the process that decodes them, which imports this file and no more."""

import ctypes
import os
import signal
import time
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


class Sleeping(bytes):
    """The first time that it is looked at, its process sleeps until it is ended."""

    def __bool__(self) -> bool:
        remembered = Path(os.environ["SLEPT_ONCE"])
        if not remembered.exists():
            remembered.touch()
            time.sleep(600)
        return True


class FatalLater(Fatal):
    """Dies when another sleeps and what comes next had time to fill the pipe."""

    def __bool__(self) -> bool:
        while not Path(os.environ["SLEPT_ONCE"]).exists():
            time.sleep(0.01)
        time.sleep(0.3)
        return super().__bool__()
