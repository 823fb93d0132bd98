"""What an encoder in fewer bits changes: who is nearest, and what the nearest say."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.artifacts import UNLABELLED, Artifacts
from pipeline.encoder.runtime import Encoder
from pipeline.errors import UserError
from pipeline.evaluation.knn import nearest, voted
from pipeline.params.export import Tolerance

_BANK, _QUERIES = 2000, 500  # images: a standard error of 0.4 points where 80 % of the nearest are the same
_SEED = 0
_K = 10
_TEMPERATURE = 0.07  # of the votes, as in Wu et al. 2018, arXiv:1805.01978
_IMAGES_AT_ONCE = 32


@dataclass(frozen=True)
class Images:
    """Images that ask, and images among which is looked.

    Attributes:
        bank: uint8 [N, H, W, 3], training images.
        queries: uint8 [Q, H, W, 3], of the test split; where there is none, other training images.
        bank_labels: int64 [N]; -1 where there is no label.
        query_labels: int64 [Q], likewise.
    """

    bank: NDArray[np.uint8]
    queries: NDArray[np.uint8]
    bank_labels: NDArray[np.int64]
    query_labels: NDArray[np.int64]


@dataclass(frozen=True)
class Drift:
    """How far an encoder is from the one in float32; the figures of kNN where there are labels, else None.

    Attributes:
        overlap_at_10: share of the ten nearest in float32 that are among its own ten; all where there are
            fewer.
        mean_cosine: of the two embeddings of an image.
        knn_top1_fp32: share of the queries that the ten nearest classify right, in float32.
        knn_top1: the same of it.
    """

    overlap_at_10: float
    mean_cosine: float
    knn_top1_fp32: float | None
    knn_top1: float | None


def sampled_images(data: Artifacts) -> Images:
    """A sample of the collection, drawn with a fixed seed.

    Raises:
        UserError: there are fewer than two images.
    """
    manifest = data.read_manifest(["split", "label"])
    rng = np.random.default_rng(_SEED)
    rows = {split: rng.permutation(int((manifest["split"] == split).sum())) for split in ("train", "test")}
    if len(rows["test"]):
        bank, asked, queries = rows["train"][:_BANK], "test", rows["test"][:_QUERIES]
    else:
        num_queries = min(_QUERIES, len(rows["train"]) // 2)
        bank, asked = rows["train"][num_queries:][:_BANK], "train"
        queries = rows["train"][:num_queries]
    if not len(bank) or not len(queries):
        raise UserError(
            f"{data.images}: too few images to compare an encoder of another precision on: set "
            "export.precision to fp32"
        )
    bank, queries = np.sort(bank), np.sort(queries)  # as they lie on disk
    return Images(
        data.read_images("train")[bank],
        data.read_images(asked)[queries],
        _labels(manifest, "train")[bank],
        _labels(manifest, asked)[queries],
    )


def calibration_images(data: Artifacts, num_images: int) -> NDArray[np.uint8]:
    """Training images drawn with a fixed seed, uint8 [N, H, W, 3]; all where there are fewer."""
    images = data.read_images("train")
    return images[np.sort(np.random.default_rng(_SEED).permutation(len(images))[:num_images])]


def measure_drift(reference: Encoder, encoder: Encoder, images: Images) -> Drift:
    """Compares the searches of two encoders.

    Args:
        reference: in float32.
        encoder: the same in fewer bits.
        images: of the size that both take.

    Raises:
        UserError: the encoder gives what is no number: a value was too large for its precision.
    """
    (bank, queries), (own_bank, own_queries) = (
        [_embed(network, each, f"compare {name}") for each in (images.bank, images.queries)]
        for name, network in (("fp32", reference), (str(encoder.metadata.get("precision")), encoder))
    )
    if not (np.isfinite(own_bank).all() and np.isfinite(own_queries).all()):
        raise UserError(
            f"export.precision: {encoder.metadata.get('precision')}: the network has values that are too "
            "large for it: set it to fp32"
        )
    k = min(_K, len(bank))
    device = torch.device("cpu")
    found = [nearest(*pair, k, device) for pair in ((queries, bank), (own_queries, own_bank))]
    both = [len(np.intersect1d(*rows)) for rows in zip(found[0][1], found[1][1], strict=True)]
    cosines = np.concatenate([(queries * own_queries).sum(axis=1), (bank * own_bank).sum(axis=1)])
    top1 = [_top1(similarities, rows, images) for similarities, rows in found]
    return Drift(sum(both) / (k * len(both)), float(cosines.mean()), *top1)


def check_drift(drift: Drift, precision: str, tolerance: Tolerance) -> None:
    """Holds the searches to what params.yaml allows.

    Raises:
        UserError: they are further from those in float32.
    """
    gate = f"export.{precision}"
    mend = "set export.precision to fp32" if precision == "fp16" else "set export.precision to fp16 or fp32"
    if drift.overlap_at_10 < tolerance.min_overlap_at_10:
        raise UserError(
            f"{gate}.min_overlap_at_10: {drift.overlap_at_10:.3f} of the ten nearest are those of fp32, at "
            f"least {tolerance.min_overlap_at_10} is asked: {mend}, or ask for less"
        )
    if drift.knn_top1 is None or drift.knn_top1_fp32 is None:
        return
    loss = drift.knn_top1_fp32 - drift.knn_top1
    if loss > tolerance.max_knn_loss:
        raise UserError(
            f"{gate}.max_knn_loss: kNN's top-1 goes from {drift.knn_top1_fp32:.3f} to {drift.knn_top1:.3f}, "
            f"at most {tolerance.max_knn_loss} may be lost: {mend}, or allow more"
        )


def _labels(manifest: pd.DataFrame, split: str) -> NDArray[np.int64]:
    return manifest.loc[manifest["split"] == split, "label"].to_numpy(dtype=np.int64)


def _embed(encoder: Encoder, images: NDArray[np.uint8], description: str) -> NDArray[np.float32]:
    starts: Iterable[int] = range(0, len(images), _IMAGES_AT_ONCE)
    starts = tqdm(starts, desc=description, unit=" batches", disable=None)
    return np.concatenate([encoder(images[start : start + _IMAGES_AT_ONCE]) for start in starts])


def _top1(similarities: NDArray[np.float32], rows: NDArray[np.int64], images: Images) -> float | None:
    """Of the queries that have a label; None where a side has none."""
    asked = images.query_labels != UNLABELLED
    if not asked.any() or (images.bank_labels == UNLABELLED).any():
        return None
    num_classes = int(max(images.bank_labels.max(), images.query_labels.max())) + 1
    neighbors = images.bank_labels[rows[asked]]
    answers = voted(similarities[asked], neighbors, images.query_labels[asked], num_classes, _TEMPERATURE)
    return float((answers.ranks < 1).mean())
