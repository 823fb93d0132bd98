"""EfficientNet-Lite0 is timm's; the ImageNet weights that a package ships of it have names of their own."""

from torch import Tensor, nn

from models.weights import COUNTER, Rgb, misfit

_FIRST = "_conv_stem.weight"  # its first tensor, by the package's name; timm's is conv_stem.weight
_CLASSIFIER = 2  # its last tensors: weight and bias

# What those weights were trained with: pixels from -1 to 1.
MEAN: Rgb = (0.5, 0.5, 0.5)
STD: Rgb = (0.5, 0.5, 0.5)


def named_as_timm(weights: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor] | None:
    """The package's tensors under the names of timm's model, by their order; None where they are others.

    Args:
        weights: of `models.weights.read_weights`, in the order of the file.
        module: timm's `efficientnet_lite0` without its classifier.
    """
    if _FIRST not in weights:
        return None
    names = [name for name in module.state_dict() if not name.endswith(COUNTER)]
    tensors = [value for name, value in weights.items() if not name.endswith(COUNTER)][:-_CLASSIFIER]
    if len(tensors) != len(names):
        return None
    renamed = dict(zip(names, tensors, strict=True))
    return None if misfit(module, renamed) else renamed
