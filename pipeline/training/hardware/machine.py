"""What the training runs on: the device, and how it is told to be repeatable."""

import ctypes
import os

import torch

from pipeline.errors import MachineError
from pipeline.params.section import Device

# glibc's mallopt(3): a block above MMAP_THRESHOLD is given back to the system when it is freed, and so is
# what lies above TRIM_THRESHOLD at the top of the heap
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_INT = 2**31 - 1
# Larger blocks are taken and given back one by one: kept, they leave holes that the next tensor does not fit.
# A ResNet-18 at batch 256, whose largest have 128 MiB, held 4.7 GiB with all kept, 3.8 GiB so.
_LARGEST_KEPT = 64 << 20


def choose_device(name: Device, key: str = "pretrain.device") -> torch.device:
    """The device that torch computes on: `auto` is CUDA where there is one.

    Args:
        name: as params.yaml has it.
        key: of params.yaml that says so.

    Raises:
        MachineError: `cuda` on a machine that has none.
    """
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise MachineError(f"{key} is cuda, but torch finds no CUDA device here: set auto or cpu")
    return torch.device("cuda" if name != "cpu" and has_cuda else "cpu")


def device_name(device: torch.device) -> str:
    """What the device calls itself, like `NVIDIA H100`, or what the processor is."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability()


def make_deterministic(seed: int) -> None:
    """Seeds torch and refuses operations whose result depends on timing."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for equal bytes
    torch.use_deterministic_algorithms(True)
    # it would write NaN into every new tensor, to show whoever reads one before it is written: a fifth of a
    # ResNet-20's step (docs/performance.md)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.manual_seed(seed)


def keep_freed_memory() -> bool:
    """Lets the process keep the memory of freed tensors for the next step; False where there is no glibc.

    Otherwise every activation of every step comes from the system anew, page by page: a ResNet-20 at batch
    256 spent a fifth of the processor's time on that, and makes 1.3 times the views/s without.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    kept = mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT) and mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)
    return bool(kept)
