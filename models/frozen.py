"""What of a start stays as it is while the rest learns: its first stages, or all of its batch norms."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class Stage:
    """A part of a network, counted from its input: the stem, then a stage of a ResNet, a block of a ViT."""

    parameters: list[nn.Parameter]
    modules: list[nn.Module]


def freeze(backbone: nn.Module, num_stages: int, *, batch_norms: bool) -> None:
    """Keeps the first stages, or all batch norms, as they are; call it last, as `train()` would undo a part.

    What is frozen gets no gradient; frozen batch norms use the statistics that they have and count nothing,
    as in detection since He et al. 2017, arXiv:1703.06870.

    Args:
        backbone: one of `models.backbones.build_backbone`.
        num_stages: from the input on.
        batch_norms: all of them.

    Raises:
        ValueError: there are no more stages than these, or it is not known what the stages are.
    """
    if num_stages:
        stages = stages_of(backbone)
        if num_stages >= len(stages):
            raise ValueError(f"freeze: {num_stages} should be below {len(stages)}, the stages that there are")
        for stage in stages[:num_stages]:
            for parameter in stage.parameters:
                parameter.requires_grad = False
            for norm in _norms(stage.modules):
                norm.eval()
    if batch_norms:
        for norm in _norms(backbone.modules()):
            norm.eval()
            for parameter in norm.parameters():
                parameter.requires_grad = False


def stages_of(backbone: nn.Module) -> list[Stage]:
    """The stages of a network of ours, or of timm, which names them.

    Raises:
        ValueError: timm does not name them.
    """
    if hasattr(backbone, "stages_in_order"):
        own: Any = backbone
        parts: list[nn.Module] = own.stages_in_order()
        return [Stage(list(part.parameters()), list(part.modules())) for part in parts]
    from timm.models import group_modules, group_parameters

    of_timm: Any = backbone
    if not hasattr(of_timm, "group_matcher"):
        raise ValueError("freeze: timm does not say what the stages of this network are: set freeze: 0")
    matcher = of_timm.group_matcher(coarse=True)
    parameters = dict(backbone.named_parameters())
    named = group_parameters(backbone, matcher)
    modules = group_modules(backbone, matcher)
    return [
        Stage(
            [parameters[name] for name in named[number]],
            [backbone.get_submodule(name) for name in modules.get(number, ())],
        )
        for number in sorted(named)
    ]


def _norms(modules: Any) -> Iterator[nn.Module]:
    return (module for module in modules if isinstance(module, _BatchNorm))
