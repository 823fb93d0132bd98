"""Section `evaluate` of params.yaml: the protocols that score a representation."""

from typing import Annotated

from pydantic import Field

from pipeline.params.section import Count, Device, Positive, Section, Seed


class Knn(Section):
    """Wu et al. 2018, arXiv:1805.01978: the k nearest vote with weight exp(cosine / temperature).

    Where there are fewer than k labelled training images, all of them vote."""

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
    """The protocols, and the device that they compute on."""

    device: Device
    knn: Knn
    linear: LinearProbe
    retrieval: Retrieval
