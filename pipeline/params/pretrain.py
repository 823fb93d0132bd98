"""Section `pretrain` of params.yaml: one training run."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.params.pretrain_backbone import Backbone
from pipeline.params.pretrain_views import Views
from pipeline.params.section import (
    Count,
    Device,
    NonNegative,
    Positive,
    Probability,
    ProjectionDim,
    Section,
    Seed,
)


class Method(Section):
    """What every method's section has: its learning rate, and its projection head.

    Attributes:
        lr: the method's own learning rate; null: that of the optimizer's section.
        hidden_dim: width of the projection head.
        output_dim: dimension of the projections.
        num_layers: of the projection head.
    """

    lr: Positive | None
    hidden_dim: Count
    output_dim: ProjectionDim
    num_layers: Count

    def arguments(self) -> dict[str, Any]:
        """What the method's class in models/ is called with."""
        return self.model_dump(exclude={"lr"})


class SimCLR(Method):
    """Chen et al. 2020, arXiv:2002.05709."""

    temperature: Positive


class SimSiam(Method):
    """Chen and He 2020, arXiv:2011.10566."""

    predictor_dim: Count
    predictor_lr_factor: Positive | None


class NNCLR(Method):
    """Dwibedi et al. 2021, arXiv:2104.14548; `keras` is the loss of the Keras example."""

    predictor_dim: Count
    temperature: Positive
    queue_size: Count
    variant: Literal["paper", "keras"]


class Optimizer(Section):
    """The optimiser, and what its learning rate does from step to step.

    Attributes:
        backbone_lr_factor: the backbone's rate is so many times that of the head.
        head_epochs: first epochs in which the head alone learns.
    """

    name: Literal["sgd", "lars", "adam", "adamw"]
    lr: Positive
    scale_lr: bool
    backbone_lr_factor: Positive
    head_epochs: Annotated[int, Field(ge=0)]
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
    processes: Count
    precision: Literal["auto", "bfloat16", "float16", "float32"]
    compile: bool
    cuda_graph: bool
    epochs: Annotated[int, Field(ge=0)]
    keep: Literal["last", "best"]
    batch_size: Annotated[int, Field(ge=2)]
    splits: Annotated[tuple[Literal["train", "test", "unlabelled"], ...], Field(min_length=1)]
    num_views: Annotated[int, Field(ge=2)]
    center: bool
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
    def method_section(self) -> Method:
        """That of the method that is trained; it has the method's name."""
        section: Method = getattr(self, self.method)
        return section

    @property
    def peak_lr(self) -> tuple[str, float]:
        """The key that says the learning rate of this method, and its value."""
        if self.method_section.lr is None:
            return "pretrain.optimizer.lr", self.optimizer.lr
        return f"pretrain.{self.method}.lr", self.method_section.lr

    def learned(self) -> bytes:
        """As JSON, but for those keys that change nothing in what is learned, and where its start lies.

        The number of processes changes its rounding alone.
        """
        without: Any = {"processes": True, "checkpoint": True, "tensorboard": True, "backbone": {"weights"}}
        return self.model_dump_json(exclude=without).encode()

    def check_processes(self, num: int) -> None:
        """Raises ValueError where so many processes cannot train this run together."""
        if num > 1 and self.batch_size % num:
            raise ValueError(f"batch_size ({self.batch_size}) must be a multiple of processes ({num})")
        if num > 1 and self.compile:
            raise ValueError(f"compile is for one process, not for processes: {num}: set it to false")

    @model_validator(mode="after")
    def _the_processes_can_train_it(self) -> "Pretrain":
        self.check_processes(self.processes)
        return self

    @model_validator(mode="after")
    def _the_head_is_not_alone_for_all_of_it(self) -> "Pretrain":
        if 0 < self.epochs <= self.optimizer.head_epochs:
            raise ValueError(
                f"optimizer.head_epochs ({self.optimizer.head_epochs}) must be below epochs ({self.epochs}), "
                "or the backbone learns nothing"
            )
        return self

    @model_validator(mode="after")
    def _only_simclr_takes_more_than_two_views(self) -> "Pretrain":
        if self.num_views > 2 and self.method != "simclr":
            raise ValueError(f"num_views ({self.num_views}) must be 2 for {self.method}; simclr takes more")
        return self
