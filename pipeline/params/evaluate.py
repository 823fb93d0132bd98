"""Section `evaluate` of params.yaml: the protocols that score a representation."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from pipeline.params.section import Count, Device, Positive, Section, Seed


def _listed(value: Any) -> Any:
    """A number alone is a choice of one."""
    return tuple(value) if isinstance(value, list) else value if isinstance(value, tuple) else (value,)


class Knn(Section):
    """Wu et al. 2018, arXiv:1805.01978: the k nearest vote with weight exp(cosine / temperature).

    Of the numbers and the temperatures the best on a validation part of the training images are taken. Where
    there are fewer than k labelled training images, all of them vote."""

    k: Annotated[tuple[Count, ...], Field(min_length=1), BeforeValidator(_listed)]
    temperature: Annotated[tuple[Positive, ...], Field(min_length=1), BeforeValidator(_listed)]
    validation_fraction: Annotated[float, Field(gt=0, lt=1)]
    seed: Seed


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


class Findings(Section):
    """From which score on a finding is shown; the file holds more of them."""

    near_duplicate: Annotated[float, Field(ge=0.9, le=1)]
    outlier: Positive
    label: Annotated[float, Field(gt=0, le=1)]


class Evaluate(Section):
    """The protocols, and the device that they compute on."""

    device: Device
    knn: Knn
    linear: LinearProbe
    retrieval: Retrieval
    findings: Findings
