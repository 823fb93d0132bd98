"""`lookalike doctor`: what this machine offers, and what is wrong with it."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import typer

from pipeline.errors import EXIT_FAULT, UserError

_PACKAGES = ("faiss-cpu", "pandas", "Pillow")
_TRAINING = ("torch", "torchvision", "timm", "onnx", "dvc")
_ONNXRUNTIMES = ("onnxruntime-gpu", "onnxruntime")  # one of them: where there is no wheel for GPUs, the other
_MEND = "install it: pip install 'lookalike[train]', or 'make install' in a clone"
_ENOUGH_DISK = 5 << 30  # bytes; the default run takes a tenth of it, and DVC's cache as much again


@dataclass(frozen=True)
class Finding:
    """One line: of what, how it is, and what is wrong with it and mends it, if something is."""

    of: str
    value: str
    problem: str | None = None


def doctor() -> None:
    """Says what this machine offers and what is wrong with it.

    That is versions, device, precision, providers, threads and disk; and of the project in this folder its
    params.yaml, stages under way and checkpoints. The exit code is 1 where something is wrong.

    \b
    Example:
      lookalike doctor
    """
    sections = {
        "versions": _versions,
        "device": _device,
        "onnxruntime runs on": _providers,
        "threads": _threads,
        "disk": _disk,
        "project": _project,
    }
    findings = [finding for of, section in sections.items() for finding in _asked(of, section)]
    width = max(len(finding.of) for finding in findings)
    for finding in findings:
        print(f"{finding.of:{width}}  {finding.value}")
        if finding.problem is not None:
            print(f"{'':{width}}  problem: {finding.problem}")
    problems = sum(finding.problem is not None for finding in findings)
    print("nothing is wrong" if not problems else f"problems: {problems}")
    if problems:
        raise typer.Exit(EXIT_FAULT)


def _asked(of: str, section: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a section finds; where it cannot be asked, that is what is wrong."""
    try:
        yield from section()
    except Exception as error:  # whatever can be broken on a machine
        reason = str(error).strip().splitlines() or [type(error).__name__]
        yield Finding(
            of,
            "cannot be asked",
            f"{reason[0]}: {_MEND}",
        )


def _versions() -> Iterator[Finding]:
    yield Finding("lookalike", importlib.metadata.version("lookalike"))
    yield Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in _PACKAGES:
        yield _version_of(package)
    if importlib.util.find_spec("torch") is None and importlib.util.find_spec("dvc") is None:
        yield Finding("training stack", "not installed; a search needs none: pip install 'lookalike[train]'")
    else:
        for package in _TRAINING:
            yield _version_of(package)
    runtimes = [_version_of(package) for package in _ONNXRUNTIMES]
    yield next((found for found in runtimes if found.problem is None), runtimes[0])


def _version_of(package: str) -> Finding:
    try:
        return Finding(package, importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            package,
            "not installed",
            _MEND,
        )


def _device() -> Iterator[Finding]:
    """What pretrain would run on."""
    if importlib.util.find_spec("torch") is None:
        return
    from pipeline.encoder.runtime import has_cuda
    from pipeline.params.reader import PARAMS_FILE, load_params
    from pipeline.training.hardware.machine import choose_device, device_name
    from pipeline.training.hardware.precision import choose_precision, precision_of

    device = choose_device("auto")
    problem = None
    if device.type == "cpu" and has_cuda():
        problem = "the driver sees a GPU and torch does not: install a build of torch for its CUDA version"
    yield Finding("device", f"{device.type} ({device_name(device)})", problem)
    precision = choose_precision("auto", device)
    why = " (the processor does not compute in bfloat16)" if precision == "float32" else ""
    if PARAMS_FILE.exists():
        with suppress(UserError, ValueError):  # params.yaml is a finding of its own
            params = load_params()
            of_run = precision_of(params.pretrain, params.dataset.image_size, device)
            if of_run != precision:
                precision, why = of_run, f" (of this project's {params.pretrain.backbone.name})"
    yield Finding("precision", precision + why)


def _providers() -> Iterator[Finding]:
    """What embed and query would run on."""
    from pipeline.encoder.runtime import has_cuda, usable_providers

    usable = usable_providers()
    problem = None
    if has_cuda() and "CUDAExecutionProvider" not in usable:
        problem = "there is a GPU, but onnxruntime would fall back to the CPU: install its CUDA libraries"
    yield Finding("onnxruntime runs on", ", ".join(usable), problem)


def _threads() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS")
    said = f", OMP_NUM_THREADS={limit}" if limit else ""
    problem = None
    if limit is not None and not limit.isdigit():
        problem = f"OMP_NUM_THREADS is {limit!r}, no number: unset it"
    elif limit is not None and int(limit) > cores:
        problem = f"OMP_NUM_THREADS asks for more threads than there are cores: set it to {cores} or unset it"
    yield Finding("threads", f"{cores} cores{said}", problem)


def _disk() -> Iterator[Finding]:
    usage = shutil.disk_usage(Path())
    problem = None
    if usage.free < _ENOUGH_DISK:
        problem = "little is left: 'dvc gc --workspace' frees versions that nothing uses"
    yield Finding("disk", f"{_size(usage.free)} free of {_size(usage.total)}", problem)


def _project() -> Iterator[Finding]:
    """params.yaml, the stages under way and the checkpoints, where the command runs in a project."""
    from pipeline.artifacts import SCRATCH, stages_under_way
    from pipeline.params.reader import PARAMS_FILE, load_params
    from pipeline.training.resuming.kept_runs import kept_runs

    if not PARAMS_FILE.exists():
        yield Finding("project", "none in this folder")
        return
    try:
        load_params()
        yield Finding("params.yaml", "well-formed")
    except UserError as error:
        yield Finding("params.yaml", "refused", str(error))
    for folder, process in stages_under_way():
        yield Finding("under way", f"{folder} is being written by process {process}")
    now = time.time()
    for run in kept_runs(SCRATCH / "checkpoints"):
        state = "finished" if run.outputs is not None else "stopped"
        yield Finding(
            "checkpoints", f"{run.folder.name}: {_size(run.num_bytes)}, {state} {_ago(now - run.saved)} ago"
        )


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def _ago(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "less than a minute"
