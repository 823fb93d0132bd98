"""A file of weights: its tensors, read without running its code, and whether they are a network's."""

import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from models.refusal import first_line

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # keys that training programs save under
_PARALLEL = "module."  # before every name, where torch's DataParallel trained it
_OURS = "lookalike."  # before what stage `pretrain` adds to a backbone's own weights
CENTER = f"{_OURS}center"  # that is the mean direction of its features
_NAMED = 3  # tensors in a message
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WHOLE = (torch.int64, torch.int32, torch.bool)
_LEARNED = ("weight", "bias")  # how the names of what is learned end
COUNTER = "num_batches_tracked"  # of a batch norm; nothing that is computed depends on it

Rgb = tuple[float, float, float]


def weights_on_cpu(module: nn.Module) -> dict[str, Tensor]:
    """Copies of a module's weights and buffers, contiguous and on the CPU."""
    return {
        name: value.detach().cpu().contiguous().clone(memory_format=torch.contiguous_format)
        for name, value in module.state_dict().items()
    }


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of one that `torch.save` wrote, by name.

    Of a training program's checkpoint the network is taken, of two the one with averaged weights; the prefix
    of a network that several GPUs trained is taken off.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, holds no tensors by name or some that are not finite, or what it holds
            would have to be run.
    """
    content = _read(path)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = content.items() if isinstance(content, Mapping) else []
    weights = {str(name): value for name, value in tensors if isinstance(value, Tensor)}
    if not weights:
        raise ValueError(f"{path}: holds no tensors by name: save the network's state_dict")
    if odd := [name for name, value in weights.items() if not _is_plain(name, value)]:
        raise ValueError(f"{path}: {_some(odd)} of {weights[odd[0]].dtype}: save the weights as float32")
    if endless := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise ValueError(f"{path}: {_some(endless)} not finite: the training that wrote it broke down")
    if all(name.startswith(_PARALLEL) for name in weights):
        weights = {name.removeprefix(_PARALLEL): value for name, value in weights.items()}
    return weights


def _read(path: Path) -> Any:
    """What a file holds, as plain values and tensors."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if not name.startswith(_OURS)]  # noqa: SIM118
                return {name: file.get_tensor(name) for name in names}
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path}: holds more than tensors, which would have to be run as code to be read: save the "
            "network's state_dict alone"
        ) from None
    except Exception as error:  # safetensors, zip and torch have each their own
        raise ValueError(f"{path}: not a whole file of weights ({first_line(error)})") from None


def _is_plain(name: str, value: Tensor) -> bool:
    """Whether a tensor holds its numbers as they are; counters, indexes and masks may be whole numbers."""
    dense = value.layout == torch.strided and not value.is_meta
    return dense and (value.dtype in _FLOATS or (value.dtype in _WHOLE and not name.endswith(_LEARNED)))


def read_statistics(path: Path) -> tuple[Rgb, Rgb] | None:
    """Mean and std of the three channels, from 0 to 1, where the file is a backbone of stage `pretrain`.

    Raises:
        ValueError: it says that it is one, and its mean and std are no six numbers, those of std above 0.
    """
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, framework="pt") as file:
        written = (file.metadata() or {}).get("lookalike")
    if written is None:
        return None
    try:
        card = json.loads(written)
        mean, std = ((float(r), float(g), float(b)) for r, g, b in (card["mean"], card["std"]))
        if not (all(map(math.isfinite, (*mean, *std))) and min(std) > 0):
            raise ValueError("not finite, or an std of 0")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: what it says of its pixels' mean and std is damaged ({error!r})") from None
    return mean, std


def load_into(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Gives a network its weights.

    Args:
        module: the network.
        weights: of `read_weights`.
        path: that they were read from.

    Raises:
        ValueError: they are not this network's; the message says which tensors, and why.
    """
    why = misfit(module, weights)
    if why:
        raise ValueError(f"{path}: not weights of this network: {why}")
    module.load_state_dict(weights, strict=False)


def misfit(module: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """Which tensors a network misses, has in another shape or has no place for; empty where all fit."""
    own = module.state_dict()
    reasons = []
    if missing := [name for name in own if name not in weights and not name.endswith(COUNTER)]:
        reasons.append(f"it has no {_some(missing)}")
    if shaped := [name for name in own if name in weights and weights[name].shape != own[name].shape]:
        shapes = f"{list(weights[shaped[0]].shape)}, not {list(own[shaped[0]].shape)}"
        reasons.append(f"{_some(shaped)} of another shape ({shapes})")
    if unknown := [name for name in weights if name not in own]:
        reasons.append(f"no place for {_some(unknown)}")
    return "; ".join(reasons)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
