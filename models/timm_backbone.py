"""Any model of timm as a backbone, with weights or without; timm is imported when needed."""

import difflib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.published_weights import PREFIX, notes_on
from models.refusal import first_line
from models.weights import Rgb, misfit


def build_timm(
    name: str, image_size: int, weights: dict[str, Tensor] | None = None, origin: Path | None = None
) -> tuple[nn.Module, int]:
    """A timm model without its classifier, and its number of features.

    Args:
        name: as in `timm.list_models()`, with a tag (`resnet18.a1_in1k`) or without.
        image_size: side of the images in pixels; a model with a fixed input size, like a ViT, is built
            for it, and so are its weights.
        weights: by their names, timm's or those of the model's authors where timm knows these too; None:
            random ones.
        origin: the file that they were read from.

    Returns:
        A module from float [B, 3, H, W], normalised, to pooled features [B, D], and D.

    Raises:
        ValueError: timm has no model of that name, the model does not take such images, or the weights are
            another network's.
    """
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f", did you mean {', '.join(PREFIX + each for each in near)}?" if near else ""
        raise ValueError(f"backbone '{PREFIX}{name}': timm {timm.__version__} has no such model{hint}")
    config = notes_on(name)
    options: dict[str, Any] = {"num_classes": 0}
    if config is not None and config.fixed_input_size:
        options["img_size"] = image_size
    try:
        module = timm.create_model(name, **options)
        feature_dim = _feature_dim(module, image_size)
    except Exception as error:  # each family of models has its own way to refuse
        raise ValueError(
            f"backbone '{PREFIX}{name}' cannot be built for images of {image_size} px: {first_line(error)}"
        ) from error
    if weights is None:
        return module, feature_dim
    kept = _without_classifier(name, weights, module, config)
    # as many classes as asked for, none: else timm takes a file that fits nowhere for one of other classes
    overlay = {"state_dict": kept, "num_classes": 0, "label_offset": 0}
    try:
        loaded: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except Exception as error:
        why = misfit(module, kept) or first_line(error)
        raise ValueError(f"{origin}: not weights of backbone '{PREFIX}{name}': {why}") from error
    del loaded.pretrained_cfg["state_dict"]
    return loaded, feature_dim


def _without_classifier(
    name: str, weights: dict[str, Tensor], module: nn.Module, notes: Any
) -> dict[str, Tensor]:
    """What the model has as a classifier, and what timm's notes call so, is left out.

    Some classifiers are more than one layer (caformer's, levit's), which the notes do not say.
    """
    import timm

    named = getattr(notes, "classifier", None) or ()
    classifiers = (named,) if isinstance(named, str) else tuple(named)
    dropped = {f"{layer}.{part}" for layer in classifiers for part in ("weight", "bias")}
    with torch.device("meta"):
        whole = timm.create_model(name)
    dropped |= whole.state_dict().keys() - module.state_dict().keys()
    return {name: value for name, value in weights.items() if name not in dropped}


def pixel_statistics(module: nn.Module) -> tuple[Rgb, Rgb]:
    """Mean and std of the three channels, from 0 to 1, that a timm model's weights were trained with."""
    config: Any = module.pretrained_cfg
    mean, std = ((r, g, b) for r, g, b in (config["mean"], config["std"]))
    return mean, std


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
