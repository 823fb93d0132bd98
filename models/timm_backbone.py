"""Any model of timm as a backbone, with its pretrained weights or without; timm is imported when needed."""

import difflib
from typing import Any

import torch
from torch import nn

PREFIX = "timm:"

_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # as timm itself looks for them
_HUB_TIMEOUT = 10.0  # seconds; huggingface_hub's own for one request

Rgb = tuple[float, float, float]


class NoPretrainedWeightsError(ValueError):
    """The pretrained weights of a timm model cannot be had here."""


def build_timm(name: str, image_size: int, pretrained: bool) -> tuple[nn.Module, int]:
    """A timm model without its classifier, and its number of features.

    Args:
        name: as in `timm.list_models()`, with a tag (`resnet18.a1_in1k`) or without.
        image_size: side of the images in pixels; a model with a fixed input size, like a ViT, is built
            for it.
        pretrained: with timm's weights, from the Hugging Face cache (HF_HOME) or, where they are not in it,
            from the network.

    Returns:
        A module from float [B, 3, H, W], normalised, to pooled features [B, D], and D.

    Raises:
        ValueError: timm has no model of that name, or the model does not take such images.
        NoPretrainedWeightsError: there are none, or neither cache nor network gives them.
    """
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f", did you mean {', '.join(PREFIX + each for each in near)}?" if near else ""
        raise ValueError(f"backbone '{PREFIX}{name}': timm {timm.__version__} has no such model{hint}")
    config = _config(name)
    options: dict[str, Any] = {}
    if config is not None and config.fixed_input_size:
        options["img_size"] = image_size
    if pretrained:
        options["pretrained_cfg_overlay"] = _weights(name, config)
    try:
        module = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
        feature_dim = _feature_dim(module, image_size)
    except OSError as error:
        raise _not_fetched(name, error, "torch's cache (TORCH_HOME)") from error
    except Exception as error:  # each family of models has its own way to refuse
        weights = " with its pretrained weights" if pretrained else ""
        raise ValueError(
            f"backbone '{PREFIX}{name}' cannot be built{weights} for images of {image_size} px: "
            f"{_first_line(error)}"
        ) from error
    return module, feature_dim


def pixel_statistics(module: nn.Module) -> tuple[Rgb, Rgb]:
    """Mean and std of the three channels, from 0 to 1, that a timm model's weights were trained with."""
    config: Any = module.pretrained_cfg
    mean, std = ((r, g, b) for r, g, b in (config["mean"], config["std"]))
    return mean, std


def _config(name: str) -> Any:
    """timm's notes on a model's weights, or None."""
    from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg

    try:
        return get_pretrained_cfg(name)
    except RuntimeError:  # the tag is unknown
        choices = ", ".join(PREFIX + each for each in get_arch_pretrained_cfgs(name))
        raise ValueError(f"backbone '{PREFIX}{name}': timm knows no such weights, only {choices}") from None


def _weights(name: str, config: Any) -> dict[str, str]:
    """Where timm should read a model's weights from, as changes to its notes.

    timm's own way asks the network even for what is in the cache, and retries for a minute without one.
    """
    if config is None or not config.has_weights:
        raise NoPretrainedWeightsError(
            f"backbone '{PREFIX}{name}': timm has no pretrained weights of it: set pretrained: false"
        )
    if not config.hf_hub_id:
        return {}  # a plain address, which torch fetches without retries
    import huggingface_hub as hub
    from huggingface_hub.errors import EntryNotFoundError

    for filename in _WEIGHT_FILES:
        cached = hub.try_to_load_from_cache(config.hf_hub_id, filename)
        if isinstance(cached, str):
            return {"file": cached}
    cache = "the Hugging Face cache (HF_HOME)"
    try:
        for filename in _WEIGHT_FILES:
            try:
                # one question without retries: hf_hub_download alone would repeat it for half a minute
                hub.get_hf_file_metadata(hub.hf_hub_url(config.hf_hub_id, filename), timeout=_HUB_TIMEOUT)
            except EntryNotFoundError:
                continue
            return {"file": hub.hf_hub_download(config.hf_hub_id, filename)}
    except Exception as error:  # the HTTP client's exceptions share no class with OSError
        raise _not_fetched(name, error, cache) from error
    absent = FileNotFoundError(f"{config.hf_hub_id} has none of {', '.join(_WEIGHT_FILES)}")
    raise _not_fetched(name, absent, cache)


def _not_fetched(name: str, error: Exception, cache: str) -> NoPretrainedWeightsError:
    return NoPretrainedWeightsError(
        f"backbone '{PREFIX}{name}': its pretrained weights are not in {cache} and cannot be fetched "
        f"({_first_line(error)}): set pretrained: false, or fill that cache where there is a network"
    )


def _feature_dim(module: nn.Module, image_size: int) -> int:
    """The width of the output for one black image; `num_features` leaves out what some heads add to it."""
    training = module.training
    module.eval()
    with torch.no_grad():
        features = module(torch.zeros(1, 3, image_size, image_size))
    module.train(training)
    if features.ndim != 2:
        raise ValueError(f"its output for one image is {list(features.shape)}, not [1, D]")
    return int(features.shape[1])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
