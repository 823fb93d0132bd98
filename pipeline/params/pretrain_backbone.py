"""Section `pretrain.backbone` of params.yaml: which network, told right or wrong without building it."""

import difflib
from typing import TYPE_CHECKING, Literal

from pydantic import field_validator, model_validator

from pipeline.errors import UserError
from pipeline.params.section import Count, NonEmpty, Section

if TYPE_CHECKING:
    from pipeline.params.reader import Params

# The names of models/backbones.py, which imports torch; tests/test_params.py holds the two together.
RESNETS = ("resnet10", "resnet18", "resnet34", "resnet50")
NETWORKS = ("resnet20", "resnet20v2", "conv4", *RESNETS)
TIMM = "timm:"  # before the name of any model of timm


class Backbone(Section):
    """The network that is kept, one of models/backbones.py or timm:NAME."""

    name: NonEmpty
    width: Count | None
    stem: Literal["auto", "small", "patch", "imagenet"]
    features: Literal["last", "stages", "quadrants"]
    pretrained: bool

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name in NETWORKS or name.startswith(TIMM):
            return name
        near = difflib.get_close_matches(name, NETWORKS)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"{name!r} is none of {', '.join(NETWORKS)}, {TIMM}NAME{hint}")

    @model_validator(mode="after")
    def _has_what_is_asked_of_it(self) -> "Backbone":
        is_timm = self.name.startswith(TIMM)
        if self.name not in RESNETS and self.stem != "auto":
            raise ValueError(f"{self.name} has one stem: leave stem at auto, not {self.stem}")
        if self.name not in RESNETS and self.features != "last":
            raise ValueError(f"{self.name} has its last features alone: leave features at last")
        if is_timm and self.width is not None:
            raise ValueError(f"{self.name} has a width of its own: leave width empty, not {self.width}")
        if self.pretrained and not is_timm:
            raise ValueError(
                f"pretrained is true, but {self.name} has no weights to start from: choose a timm model, "
                "like timm:resnet18"
            )
        return self


def check_network(params: "Params") -> None:
    """Whether timm has the model, where it is one of timm's; timm is imported for that, which takes seconds.

    Raises:
        UserError: it has none of that name.
    """
    chosen = params.pretrain.backbone.name
    if not chosen.startswith(TIMM):
        return
    import timm

    name = chosen.removeprefix(TIMM)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(TIMM + each for each in near)}?" if near else ""
        raise UserError(
            f"params.yaml: pretrain.backbone.name: {chosen!r}: timm {timm.__version__} has no such model"
            f"{hint}"
        )
