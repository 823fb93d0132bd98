"""The device and the precision that are chosen, and what is done to the process before it trains."""

import subprocess
import sys

import pytest
import torch

from pipeline.errors import MachineError
from pipeline.training.hardware.machine import choose_device, make_deterministic
from pipeline.training.hardware.precision import choose_precision


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_gpu_is_said_and_not_worked_around() -> None:
    with pytest.raises(MachineError, match="torch finds no CUDA device here"):
        choose_device("cuda")


def test_precision_is_what_is_asked_and_auto_asks_the_processor() -> None:
    cpu = torch.device("cpu")
    assert choose_precision("float32", cpu) == "float32"
    assert choose_precision("bfloat16", cpu) == "bfloat16"
    with open("/proc/cpuinfo") as file:  # noqa: PTH123
        native = "avx512_bf16" in file.read()
    assert choose_precision("auto", cpu) == ("bfloat16" if native else "float32")


def test_determinism_does_not_fill_every_new_tensor() -> None:
    make_deterministic(0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        torch.empty(1000)
    assert "aten::fill_" not in {event.key for event in profiler.key_averages()}
    assert torch.are_deterministic_algorithms_enabled()


FREED_AND_TAKEN_AGAIN = """
import resource, statistics
import torch
from pipeline.training.hardware.machine import keep_freed_memory

def faults_per_page(mebibytes):
    size, faults = mebibytes << 20, []
    for step in range(40):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.empty(size, dtype=torch.uint8).fill_(1)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return int(statistics.median(faults)) / (size // 4096)  # the first steps still make room

print(faults_per_page(48))
assert keep_freed_memory()
print(faults_per_page(48), faults_per_page(128))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of glibc")
def test_freed_memory_is_kept_for_the_next_step_but_for_the_largest_tensors() -> None:
    one_a_huge_page = 1 / 512  # what a system gives that hands out 2 MiB at a time
    printed = subprocess.check_output([sys.executable, "-c", FREED_AND_TAKEN_AGAIN], text=True)
    given_back, kept, large = map(float, printed.split())
    assert kept < 0.05
    for taken_anew in (given_back, large):
        assert taken_anew > max(10 * kept, 0.9 * one_a_huge_page)
