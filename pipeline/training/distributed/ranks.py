"""The processes of a run on this machine: started, watched and ended together."""

import contextlib
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from pipeline.errors import EXIT_BY_SIGNAL, EXIT_FAULT, plain_errors, say_on_stderr
from pipeline.training.distributed.joining import LOST, Seat

Work = Callable[[Seat], None]

_GRACE_S = 5.0  # for the others to end by themselves once one has failed
_ONE_REQUEST_S = 1.0  # a second Ctrl-C is obeyed at once
_LOOPBACK = "lo"


def run_ranks(work: Work, size: int) -> None:
    """Calls `work` in so many processes; returns when all are done, or leaves with a failure's exit code.

    The first failure ends all of them within seconds, with one line. SIGINT and SIGTERM are passed on, so
    that the ranks end their step and save it; the second one ends them at once. Where this process is killed
    they end too.

    Args:
        work: a function that a module has at its top; what it raises is said as `plain_errors` says it.
        size: at least 2.
    """
    # the ranks talk to each other alone, and torch's warnings are for who wrote the network
    if any(name == _LOOPBACK for _, name in socket.if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _LOOPBACK)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        meeting = f"file://{Path(folder) / 'meeting'}"
        seats = [Seat(rank, size, rank, size, meeting, torch.get_num_threads()) for rank in range(size)]
        ranks = _Ranks(work, seats)
        with ranks.signals_passed_on():
            ranks.start()
            ranks.wait()
    ranks.say_what_failed()


class _Ranks:
    """The processes, what each of them had to say, and what this one was told."""

    def __init__(self, work: Work, seats: list[Seat]) -> None:
        context = get_context("spawn")
        pipes = [context.Pipe(duplex=False) for _ in seats]
        self._reports = [reader for reader, _ in pipes]
        self._writers = [writer for _, writer in pipes]
        self._processes: list[SpawnProcess] = [
            context.Process(target=_rank, args=(work, seat, writer), name=f"rank {seat.rank}")
            for seat, writer in zip(seats, self._writers, strict=True)
        ]
        self._signal: int | None = None
        self._signalled = 0.0
        self._failed_first: list[int] = []

    def start(self) -> None:
        # The terminal's Ctrl-C is for this process, which passes it on; what it starts inherits the mask.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            for process, writer in zip(self._processes, self._writers, strict=True):
                process.start()
                writer.close()  # so that a pipe ends with its process
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])

    def wait(self) -> None:
        """Until all have ended; once one has failed, the others have some seconds for it."""
        deadline: float | None = None
        while running := [process for process in self._processes if process.exitcode is None]:
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            connection.wait([process.sentinel for process in running], timeout)
            if deadline is None:
                self._failed_first = [rank for rank, each in enumerate(self._processes) if each.exitcode]
                deadline = time.monotonic() + _GRACE_S if self._failed_first else None
            elif time.monotonic() >= deadline:
                self._kill()

    @contextmanager
    def signals_passed_on(self) -> Iterator[None]:
        def pass_on(number: int, _frame: FrameType | None) -> None:
            if self._signal is None:
                self._signal, self._signalled = number, time.monotonic()
                for process in self._started():
                    process.terminate()
            elif time.monotonic() - self._signalled > _ONE_REQUEST_S:
                self._kill()

        before = {each: signal.signal(each, pass_on) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            self._kill()  # where the wait itself broke off
            for each, handler in before.items():
                signal.signal(each, handler)

    def _kill(self) -> None:
        for process in self._started():
            process.kill()

    def _started(self) -> list[SpawnProcess]:
        return [
            process for process in self._processes if process.pid is not None and process.exitcode is None
        ]

    def say_what_failed(self) -> None:
        """One line of the failure that was the cause, and its exit code; nothing where there was none."""
        codes = [process.exitcode or 0 for process in self._processes]
        if not any(codes):
            return
        own = {rank: line for rank, line in self._said() if line != LOST}
        killed = [rank for rank in self._failed_first if codes[rank] < 0]
        if self._signal is not None:
            say_on_stderr(own.get(0, "interrupted; the same command goes on from the last checkpoint"))
            sys.exit(EXIT_BY_SIGNAL + self._signal)
        if killed:
            name = signal.Signals(-codes[killed[0]]).name
            say_on_stderr(
                f"process {killed[0] + 1} of {len(codes)} was ended by {name} (as where memory is full): the "
                "same command goes on from the last checkpoint"
            )
            sys.exit(EXIT_FAULT)
        if own:
            rank = min(own)
            say_on_stderr(own[rank])
            sys.exit(codes[rank])
        sys.exit(EXIT_FAULT)  # a traceback has said it

    def _said(self) -> Iterator[tuple[int, str]]:
        for rank, reports in enumerate(self._reports):
            with contextlib.suppress(EOFError):  # it ended without a word
                yield rank, reports.recv()


def _rank(work: Work, seat: Seat, reports: Any) -> None:
    """In the new process."""
    threading.Thread(target=_end_with_starter, daemon=True).start()
    with plain_errors(reports.send):
        work(seat)


def _end_with_starter() -> None:
    starter = parent_process()
    assert starter is not None
    starter.join()
    os._exit(EXIT_FAULT)
