"""The typed, frozen, strict sections of params.yaml: a wrong value stops before any work.

No module of the chain reads params.yaml but through here. Nothing here imports torch, since every stage
loads its params, and the stages after export must run without it.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline.errors import UserError

PARAMS_FILE = Path("params.yaml")
MNIST_SIDE = 28  # pixels
NEEDS_A_PATH = {  # the collections of one's own, and what their dataset.path may be
    "folder": "a folder, a .tar, .tar.gz, .tgz or .zip",
    "parquet": "a .parquet file or a folder of them",
}

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
ProjectionDim = Annotated[int, Field(ge=2)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
NonEmpty = Annotated[str, Field(min_length=1)]
Device = Literal["auto", "cpu", "cuda"]


class Section(BaseModel):
    """A part of params.yaml: unknown keys are refused, values are never converted, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Dataset(Section):
    """Which images, how large, and how they are split."""

    name: Literal["mnist5k", "cifar10", "stl10", "folder", "parquet"]
    path: NonEmpty | None
    root: NonEmpty
    mirror: NonEmpty | None
    image_column: NonEmpty | None
    label_column: NonEmpty | None
    image_size: Annotated[int, Field(ge=8, le=1024)]
    test_fraction: Annotated[float, Field(gt=0, lt=1)]
    seed: Seed
    max_rejected: Probability
    train_test_duplicates: Literal["drop", "keep"]

    @model_validator(mode="after")
    def _digits_are_padded_not_cut(self) -> "Dataset":
        if self.name == "mnist5k" and self.image_size < MNIST_SIDE:
            raise ValueError(f"image_size ({self.image_size}) must be at least {MNIST_SIDE} for mnist5k")
        return self

    @model_validator(mode="after")
    def _own_images_have_a_path(self) -> "Dataset":
        if self.name in NEEDS_A_PATH and self.path is None:
            raise ValueError(f"path is empty, {self.name} needs {NEEDS_A_PATH[self.name]}")
        return self


class Backbone(Section):
    """The network that is kept, one of models/backbones.py or timm:NAME."""

    name: NonEmpty
    width: Count | None
    stem: Literal["auto", "small", "patch", "imagenet"]
    features: Literal["last", "stages", "quadrants"]
    pretrained: bool


class Method(Section):
    """What every method's section has.

    Attributes:
        lr: the method's own learning rate; null: that of the optimizer's section.
    """

    lr: Positive | None

    def arguments(self) -> dict[str, Any]:
        """What the method's class in models/ is called with."""
        return self.model_dump(exclude={"lr"})


class SimCLR(Method):
    """Chen et al. 2020, arXiv:2002.05709."""

    hidden_dim: Count
    output_dim: ProjectionDim
    num_layers: Count
    temperature: Positive


class SimSiam(Method):
    """Chen and He 2020, arXiv:2011.10566."""

    hidden_dim: Count
    output_dim: ProjectionDim
    num_layers: Count
    predictor_dim: Count
    predictor_lr_factor: Positive | None


class NNCLR(Method):
    """Dwibedi et al. 2021, arXiv:2104.14548; `keras` is the loss of the Keras example."""

    hidden_dim: Count
    output_dim: ProjectionDim
    num_layers: Count
    predictor_dim: Count
    temperature: Positive
    queue_size: Count
    variant: Literal["paper", "keras"]


class Optimizer(Section):
    """The optimiser, and what its learning rate does from step to step."""

    name: Literal["sgd", "lars", "adam", "adamw"]
    lr: Positive
    scale_lr: bool
    schedule: Literal["cosine", "constant"]
    warmup_epochs: NonNegative
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NonNegative
    trust_coefficient: Positive
    clip_norm: Positive | None
    accumulate: Count


class EarlyStopping(Section):
    """After so many epochs without a lower loss; the weights of the lowest are kept. Null: never."""

    patience: Count | None


class Collapse(Section):
    """When the projections' standard deviation is below this share of 1 / sqrt(D), all images look alike."""

    threshold: Probability
    action: Literal["warn", "stop"]


class Checkpoint(Section):
    """How often a run is saved: after so many epochs, and within an epoch after so many minutes."""

    epochs: Count
    minutes: Positive


class Range(Section):
    """An interval that a draw is uniform in."""

    low: Positive
    high: Positive

    @model_validator(mode="after")
    def _low_is_not_above_high(self) -> "Range":
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) must not be above high ({self.high})")
        return self


class Crop(Section):
    """Random resized crop: the share of the area, and width over height (drawn on a log scale)."""

    p: Probability
    scale: Range
    ratio: Range

    @model_validator(mode="after")
    def _no_larger_than_the_image(self) -> "Crop":
        if self.scale.high > 1:
            raise ValueError(f"scale.high ({self.scale.high}) must not be above 1, the whole image")
        return self


class Flip(Section):
    p: Probability


class Affine(Section):
    """Rotation and horizontal shear, both uniform in plus or minus their bound, in degrees."""

    p: Probability
    degrees: Annotated[float, Field(ge=0, le=180)]
    shear: Annotated[float, Field(ge=0, le=60)]


class ColorJitter(Section):
    """Factors uniform in 1 plus or minus the bound; hue uniform in plus or minus the bound, in turns."""

    p: Probability
    brightness: Probability
    contrast: Probability
    saturation: Probability
    hue: Annotated[float, Field(ge=0, le=0.5)]


class Grayscale(Section):
    p: Probability


class Blur(Section):
    """Gaussian blur; sigma in pixels."""

    p: Probability
    sigma: Range


class Solarize(Section):
    """Inverts the values at and above the threshold, on the scale from 0 to 1."""

    p: Probability
    threshold: Probability


class Views(Section):
    """How an image becomes a view, in the order in which it happens."""

    size: Annotated[int, Field(ge=8, le=1024)]
    crop: Crop
    horizontal_flip: Flip
    vertical_flip: Flip
    affine: Affine
    color_jitter: ColorJitter
    grayscale: Grayscale
    blur: Blur
    solarize: Solarize


class Probe(Section):
    """The linear probe trained beside the encoder, on the method's first view or on a milder one of its own.

    The milder view has the flips of the method's views, a crop that keeps at least `min_area` of the image
    and a jitter of the brightness; nothing else.
    """

    lr: Positive
    views: Literal["first", "mild"]
    min_area: Annotated[float, Field(gt=0, le=1)]
    brightness: Probability


class Monitor(Section):
    """While training, on held-out labelled images: kNN against a bank of the others, and a linear probe."""

    holdout_fraction: Annotated[float, Field(gt=0, lt=1)]
    bank_size: Count
    k: Count
    probe: Probe


class Pretrain(Section):
    """One training run."""

    method: Literal["simclr", "simsiam", "nnclr"]
    seed: Seed
    device: Device
    precision: Literal["auto", "bfloat16", "float16", "float32"]
    compile: bool
    cuda_graph: bool
    epochs: Annotated[int, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=2)]
    splits: Annotated[tuple[Literal["train", "test", "unlabelled"], ...], Field(min_length=1)]
    num_views: Annotated[int, Field(ge=2)]
    normalization: Literal["auto", "collection", "imagenet", "half"]
    backbone: Backbone
    simclr: SimCLR
    simsiam: SimSiam
    nnclr: NNCLR
    optimizer: Optimizer
    early_stopping: EarlyStopping
    collapse: Collapse
    checkpoint: Checkpoint
    tensorboard: bool
    views: Views
    monitor: Monitor

    @property
    def method_section(self) -> SimCLR | SimSiam | NNCLR:
        """That of the method that is trained."""
        match self.method:
            case "simclr":
                return self.simclr
            case "simsiam":
                return self.simsiam
            case "nnclr":
                return self.nnclr

    @property
    def peak_lr(self) -> tuple[str, float]:
        """The key that says the learning rate of this method, and its value."""
        if self.method_section.lr is None:
            return "pretrain.optimizer.lr", self.optimizer.lr
        return f"pretrain.{self.method}.lr", self.method_section.lr

    @model_validator(mode="after")
    def _warmup_ends_before_training(self) -> "Pretrain":
        if self.optimizer.warmup_epochs > self.epochs:
            raise ValueError(
                f"optimizer.warmup_epochs ({self.optimizer.warmup_epochs}) must not be above "
                f"epochs ({self.epochs})"
            )
        return self

    @model_validator(mode="after")
    def _only_simclr_takes_more_than_two_views(self) -> "Pretrain":
        if self.num_views > 2 and self.method != "simclr":
            raise ValueError(f"num_views ({self.num_views}) must be 2 for {self.method}; simclr takes more")
        return self

    @model_validator(mode="after")
    def _pretrained_weights_are_timms(self) -> "Pretrain":
        if self.backbone.pretrained and not self.backbone.name.startswith("timm:"):
            raise ValueError(
                f"backbone.pretrained is true, but {self.backbone.name} has no weights to start from: choose "
                "a timm model, like timm:resnet18"
            )
        return self


class Export(Section):
    """The name that the encoder carries, and how far it may stand from torch."""

    name: NonEmpty
    version: NonEmpty
    max_abs_difference: Positive
    min_cosine: Annotated[float, Field(gt=0, le=1)]


class Embed(Section):
    device: Device
    batch_size: Count


class Index(Section):
    """`auto`, or any factory string of FAISS; for an approximate one, the recall@10 that it is tuned to."""

    factory: NonEmpty
    target_recall: Annotated[float, Field(gt=0, le=1)]
    num_queries: Count
    seed: Seed


class Knn(Section):
    """Wu et al. 2018, arXiv:1805.01978: the k nearest vote with weight exp(cosine / temperature)."""

    k: Count
    temperature: Positive


class LinearProbe(Section):
    """Multinomial logistic regression; C is chosen on a validation part of the training labels."""

    C: Annotated[tuple[Positive, ...], Field(min_length=1)]
    validation_fraction: Annotated[float, Field(gt=0, lt=1)]
    max_iterations: Count
    few_label_seeds: Annotated[tuple[Seed, ...], Field(min_length=2)]
    seed: Seed


class Retrieval(Section):
    """How many test images ask for their like."""

    num_queries: Count
    seed: Seed


class Evaluate(Section):
    knn: Knn
    linear: LinearProbe
    retrieval: Retrieval


class Params(Section):
    """The whole of params.yaml."""

    dataset: Dataset
    pretrain: Pretrain
    export: Export
    embed: Embed
    index: Index
    evaluate: Evaluate


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Reads and checks params.yaml.

    Raises:
        UserError: the file is missing or no YAML, a key is unknown or missing, or a value breaks its rule;
            the message names the file, the key, the value and the rule.
    """
    return check_params(parse_yaml(read_text(path), path), path)


def read_text(path: Path) -> str:
    """The text of a file that stands at the project's top.

    Raises:
        UserError: the file is missing or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: not in this folder: run the command at the project's top") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None


def parse_yaml(text: str, origin: Path | str) -> Any:
    """The values of a YAML text, as plain Python values.

    Raises:
        UserError: the text is no YAML; the message begins with `origin`.
    """
    try:
        # YAML 1.2 like DVC's own reader: 1e-4 is a number and `no` is a word.
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{origin}{line}: not YAML: {error.problem}") from None
    except (YAMLError, ValueError) as error:  # a control character; a date like 2020-13-45
        raise UserError(f"{origin}: not YAML: {str(error).splitlines()[0]}") from None


def check_params(values: Any, origin: Path | str) -> Params:
    """The typed params of plain values.

    Raises:
        UserError: a key is unknown or missing, or a value breaks its rule; the message begins with `origin`.
    """
    try:
        return Params.model_validate(_tuples(values))
    except ValidationError as error:
        # an unknown key first: it is the misspelling of one that is missing
        first, *others = sorted(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        more = f" (and {len(others)} more)" if others else ""
        raise UserError(f"{origin}: {_explain(first)}{more}") from None


def _tuples(value: Any) -> Any:
    """YAML's lists as tuples: strict pydantic takes no list for a tuple, and only tuples are frozen."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value


def _explain(error: ErrorDetails) -> str:
    """One pydantic error as `key: value and rule`."""
    key = ".".join(str(part) for part in error["loc"]) or "the file"
    value = error["input"]
    match error["type"]:
        case "missing":
            return f"{key}: missing"
        case "extra_forbidden":
            return f"{key}: unknown key{_nearest(error['loc'])}"
        case "literal_error":
            choices = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
            return f"{key}: {value!r} is none of {choices}"
        case "value_error":
            return f"{key}: {error['ctx']['error']}"
        case "too_short":
            return f"{key}: {list(value)!r} should have at least {error['ctx']['min_length']} values"
        case "model_type" | "model_attributes_type":
            return f"{key}: {value!r} should be a section with keys of its own"
        case _:
            rule = error["msg"].removeprefix("Input should be ").removeprefix("Input should ")
            return f"{key}: {value!r} should be {rule}"


def _nearest(loc: tuple[int | str, ...]) -> str:
    """`, did you mean ...?` for a key that looks like a known one of the same section."""
    section: type[BaseModel] = Params
    for part in loc[:-1]:
        child = section.model_fields[str(part)].annotation
        if not (isinstance(child, type) and issubclass(child, BaseModel)):
            return ""
        section = child
    near = difflib.get_close_matches(str(loc[-1]), section.model_fields, n=1)
    return f", did you mean {near[0]}?" if near else f"; known here: {', '.join(section.model_fields)}"
