"""Which labelled images a backbone is fine-tuned on."""

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import UNLABELLED
from pipeline.errors import UserError
from pipeline.evaluation.probes.draws import split_stratified
from pipeline.params.finetune import Finetune


def labelled_share(labels: NDArray[np.int64], params: Finetune) -> NDArray[np.int64]:
    """Rows of the share of the labelled images, sorted; of every class at least one.

    Args:
        labels: of the training images, [N], or -1 where there is none.
        params: of them the share, its seed, and what must fit it.

    Raises:
        UserError: there are no labels, or all are of one class; the share has not one image for each class,
            or fewer than a batch.
    """
    labelled = np.flatnonzero(labels != UNLABELLED)
    num_classes = len(np.unique(labels[labelled]))
    if num_classes < 2:
        why = (
            "all labelled training images are of one class"
            if num_classes
            else "no training image has a label"
        )
        raise UserError(
            f"params.yaml: finetune.epochs is {params.epochs}, but {why}, so there is nothing to learn from "
            "labels: set it to 0"
        )
    num_images = round(params.share * len(labelled))
    if num_images < num_classes:
        enough = math.ceil(num_classes / len(labelled) * 10_000) / 10_000
        raise UserError(
            f"params.yaml: finetune.share: {params.share:g} of {len(labelled):,} labels is {num_images:,}, "
            f"fewer than one for each of {num_classes:,} classes: set it to {enough:g} or more"
        )
    if num_images < params.batch_size:
        raise UserError(
            f"params.yaml: finetune.batch_size: {params.batch_size} is more than the {num_images:,} images "
            "of finetune.share: choose a smaller batch or a larger share"
        )
    drawn, _ = split_stratified(labels[labelled], num_images, params.seed)
    return labelled[drawn]
