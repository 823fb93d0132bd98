"""Processes that tests start: commands as a user types them, and stages at a hundredth of the cost."""

import contextlib
import ctypes
import functools
import multiprocessing
import os
import resource
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

NUM_CORES = len(os.sched_getaffinity(0))

_STAGES = (
    "scan",
    "weights",
    "fetch",
    "pretrain",
    "export",
    "finetune",
    "embed",
    "index",
    "evaluate",
    "report",
)
_LINUX_CAPABILITY_VERSION_3 = 0x20080522  # capget(2)
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2


def run(*command: str, cwd: Path, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs a command as a user of this environment would, and shows its output where it fails."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(  # type: ignore[call-overload]
        command, cwd=cwd, env=environment, text=True, capture_output=True, stdin=subprocess.DEVNULL, **options
    )
    return _checked(done, check)


def run_stage(
    stage: str, cwd: Path, *, check: bool = True, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m stages.<stage>` in a folder; see `start`."""
    return _run_forked(f"stages.{stage}", [f"stages.{stage}"], cwd, check, before)


def run_lookalike(
    *arguments: str, cwd: Path, check: bool = True, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """`lookalike ...` in a folder; see `start`."""
    return _run_forked("pipeline.cli.main", ["lookalike", *arguments], cwd, check, before)


def start_stage(stage: str, cwd: Path, stdout: Path, stderr: Path, before: Callable[[], None]) -> BaseProcess:
    """`python -m stages.<stage>` in a folder, under way; what it prints goes to two files."""
    module = f"stages.{stage}"
    return start(_call_main, module, [module], cwd, [stdout, stderr], before)


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Asks every hundredth of a second."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def start(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """A process that has all of the project imported already: it is forked from one that did nothing else.

    A stage that trains takes two to three seconds to import, and most that tests ask of one takes less. It is
    a process of its own in all that matters: exit code, signals, limits, threads that were never started.

    Args:
        target: a function of a module, which the process calls.
        arguments: that can be pickled.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"stages.{stage}" for stage in _STAGES])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def fails(code: int, *command: str, cwd: Path, before: Callable[[], None] | None = None) -> str:
    """Runs a stage, or `lookalike ...`, that must fail with this code and one line; gives the line."""
    name, *arguments = command
    if name == "lookalike":
        done = run_lookalike(*arguments, cwd=cwd, check=False, before=before)
    else:
        done = run_stage(name, cwd, check=False, before=before)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("error: ").rstrip()


def use_every_core() -> None:
    """Before a stage: as many threads as a user's has, where a process of pytest-xdist has one."""
    import torch

    torch.set_num_threads(NUM_CORES)


def obey_permissions() -> None:
    """Before a command: what a user is denied, root is denied too, here and in what it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; the lower 32 bits first
    assert libc.capget(header, sets) == 0
    for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        for number in range(3):
            sets[number] &= ~(1 << capability)
    assert libc.capset(header, sets) == 0


def files_of_at_most(num_bytes: int) -> Callable[[], None]:
    """Before a command: every file that it writes ends there, as on a disk that is full."""
    return functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def _run_forked(
    module: str, arguments: list[str], cwd: Path, check: bool, before: Callable[[], None] | None
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as scratch:
        outputs = [Path(scratch) / name for name in ("stdout", "stderr")]
        process = start(_call_main, module, arguments, cwd, outputs, before)
        process.join()
        stdout, stderr = (path.read_text() if path.exists() else "" for path in outputs)
    assert process.exitcode is not None
    return _checked(subprocess.CompletedProcess(arguments, process.exitcode, stdout, stderr), check)


def _call_main(
    module: str, arguments: list[str], cwd: Path, outputs: list[Path], before: Callable[[], None] | None
) -> None:
    """In the new process: what `python -m` does, and the console script's `main`."""
    os.chdir(cwd)
    sys.argv = arguments
    with contextlib.ExitStack() as stack:
        for path, number in zip(outputs, (1, 2), strict=True):
            os.dup2(stack.enter_context(path.open("w")).fileno(), number)
        # buffered as a file's, whatever PYTHONUNBUFFERED says where the tests run
        sys.stdout = stack.enter_context(open(1, "w", closefd=False))
        if before is not None:
            before()
        sys.modules.pop(module, None)  # or runpy warns that it is imported already
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def _checked(done: subprocess.CompletedProcess[str], check: bool) -> subprocess.CompletedProcess[str]:
    if check and done.returncode != 0:
        pytest.fail(f"{' '.join(done.args)} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done
