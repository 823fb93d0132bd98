"""Section `pretrain.backbone` of params.yaml: which network and start, told right or wrong unbuilt."""

import difflib
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.errors import UserError
from pipeline.params.section import Count, NonEmpty, Section

if TYPE_CHECKING:
    from pipeline.params.reader import Params

# The names of models/backbones.py, which imports torch; tests/test_params.py holds the two together.
RESNETS = ("resnet10", "resnet18", "resnet34", "resnet50")
EFFICIENTNET_LITE0 = "efficientnet_lite0"
NETWORKS = ("resnet20", "resnet20v2", "conv4", *RESNETS, EFFICIENTNET_LITE0)
TIMM = "timm:"  # before the name of any model of timm
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin")  # suffixes of files of weights


class Backbone(Section):
    """The network that is kept, one of models/backbones.py or timm:NAME; its start, and what of it learns.

    Attributes:
        pretrained: begin with its published weights.
        weights: begin with those of a file.
        freeze: the first so many stages do not learn; the stem is the first.
        batch_norm: `frozen`: the statistics and the scales of all batch norms stay those of the start.
    """

    name: NonEmpty
    width: Count | None
    stem: Literal["auto", "small", "patch", "imagenet"]
    features: Literal["last", "stages", "quadrants"]
    pretrained: bool
    weights: NonEmpty | None
    freeze: Annotated[int, Field(ge=0)]
    batch_norm: Literal["train", "frozen"]

    def architecture(self) -> dict[str, Any]:
        """What the network is, without its start: arguments of `models.backbones.build_backbone`."""
        return self.model_dump(include={"name", "width", "stem", "features"})

    @property
    def starts_random(self) -> bool:
        """Whether no weights are given."""
        return not self.pretrained and self.weights is None

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
        has_own_width = self.name.startswith(TIMM) or self.name == EFFICIENTNET_LITE0
        if self.name not in RESNETS and self.stem != "auto":
            raise ValueError(f"{self.name} has one stem: leave stem at auto, not {self.stem}")
        if self.name not in RESNETS and self.features != "last":
            raise ValueError(f"{self.name} has its last features alone: leave features at last")
        if has_own_width and self.width is not None:
            raise ValueError(f"{self.name} has a width of its own: leave width empty, not {self.width}")
        if self.pretrained and not has_own_width:
            raise ValueError(
                f"pretrained is true, but {self.name} has no published weights: choose {EFFICIENTNET_LITE0}, "
                "or a timm model, like timm:resnet18"
            )
        return self

    @model_validator(mode="after")
    def _begins_with_one_thing(self) -> "Backbone":
        if self.pretrained and self.weights is not None:
            raise ValueError("pretrained and weights are two starts: set pretrained: false or weights: null")
        if self.weights is not None and not self.weights.endswith(WEIGHTS):
            raise ValueError(f"weights: {self.weights!r} should end in one of {', '.join(WEIGHTS)}")
        if self.starts_random and self.freeze:
            raise ValueError("freeze keeps stages as they are, but the weights are random: set freeze: 0")
        if self.starts_random and self.batch_norm == "frozen":
            raise ValueError("batch_norm is frozen, but the weights are random: set batch_norm: train")
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
