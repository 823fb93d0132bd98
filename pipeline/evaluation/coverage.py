"""What the labels of a collection allow to be measured, and what a person should know of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.retrieval import askable

# protocol -> the share of the training labels that a probe learns from, and how many of each class
SHARES = {"linear_1pct": 0.01, "linear_5pct": 0.05, "linear_10pct": 0.10}
SHOTS = {"linear_1shot": 1, "linear_5shot": 5, "linear_16shot": 16}
PROTOCOLS = ("knn", "linear", *SHARES, *SHOTS, "retrieval", "clusters")
_NAMED = 5  # classes in a remark
# Clusters of few images agree with any classes: at random, into 200, the mutual information with as many
# classes is 0.95 of the whole where each has one image, 0.84 where it has two, and 0.68 where it has five.
_FEWEST_OF_A_CLUSTER = 10


def left_out(
    train: NDArray[np.int64], test: NDArray[np.int64], contents: NDArray[np.int64] | None = None
) -> dict[str, str]:
    """The protocols that these labels do not allow, and why.

    Args:
        train: classes of the labelled training images, [N].
        test: of the labelled test images, [T].
        contents: of both, [N + T]; equal numbers are equal files. None: no two are.
    """
    for labels, what in ((train, "training"), (test, "test")):
        if len(labels) == 0:
            return dict.fromkeys(PROTOCOLS, f"no {what} image has a label")
    reasons = {}
    num_classes = len(np.unique(train))
    if num_classes == 1:
        reasons = dict.fromkeys(PROTOCOLS, "all labelled training images are of one class")
        del reasons["retrieval"], reasons["clusters"]
    for protocol, fraction in SHARES.items():
        num_drawn = round(fraction * len(train))
        if num_classes > 1 and num_drawn < 2 * num_classes:
            reasons[protocol] = (
                f"{fraction:.0%} of {len(train):,} labels is {num_drawn:,}, "
                f"fewer than two for each of {num_classes:,} classes"
            )
    for protocol, num_each in SHOTS.items():
        if num_classes > 1 and np.bincount(train).max() <= num_each:
            count = "one labelled training image" if num_each == 1 else f"{num_each} labelled training images"
            reasons[protocol] = f"no class has more than {count}: that is all of them"
    if len(np.union1d(train, test)) == 1:
        reasons["retrieval"] = "all labelled images are of one class"
    elif len(askable(train, test, contents)) == 0:
        reasons["retrieval"] = "no test image has another of its class"
    return reasons | _why_no_clusters(test)


def _why_no_clusters(test: NDArray[np.int64]) -> dict[str, str]:
    num_classes = len(np.unique(test))
    if num_classes == 1:
        return {"clusters": "all labelled test images are of one class"}
    if len(test) < _FEWEST_OF_A_CLUSTER * num_classes:
        return {"clusters": f"fewer than {_FEWEST_OF_A_CLUSTER} labelled test images a class"}
    return {}


def label_figures(train: NDArray[np.int64], test: NDArray[np.int64]) -> dict[str, float]:
    """What no representation changes.

    Args:
        train: classes of the labelled training images, [N], at least one.
        test: of the labelled test images, at least one.

    Returns:
        `majority_share`: the top-1 of always answering the class that most training images are of (of equals
        the first); `num_classes_only_in_test` and `num_classes_only_in_train`.
    """
    return {
        "majority_share": float((test == np.bincount(train).argmax()).mean()),
        "num_classes_only_in_test": len(np.setdiff1d(test, train)),
        "num_classes_only_in_train": len(np.setdiff1d(train, test)),
    }


def remarks(train: NDArray[np.int64], test: NDArray[np.int64], class_names: Sequence[str]) -> list[str]:
    """Lines about classes that cannot be scored as the others are."""
    classes, counts = np.unique(train, return_counts=True)
    found = {
        "only in test, so that every answer about them is wrong": np.setdiff1d(test, train),
        "only in training, so that none of them is scored": np.setdiff1d(train, test),
        "with one labelled training image": classes[counts == 1],
    }
    return [f"classes {what}: {_some(rare, class_names)}" for what, rare in found.items() if len(rare)]


def _some(labels: NDArray[np.int64], class_names: Sequence[str]) -> str:
    named = ", ".join(class_names[label] for label in labels[:_NAMED])
    return named + (f" and {len(labels) - _NAMED:,} more" if len(labels) > _NAMED else "")
