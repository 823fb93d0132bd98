"""What a run of the chain left: all that its page is made of."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.arrays import Stacked
from pipeline.artifacts import Artifacts, read_json, sha256_of
from pipeline.collection.sources.collection import printable
from pipeline.encoder.runtime import Encoder
from pipeline.errors import UserError, existing
from pipeline.evaluation.scored import scored_images
from pipeline.search.index_folder import IndexFolder

_METRICS = ("fetch", "pretrain", "index", "evaluate")
FINDINGS = ("kind", "ids", "score", "why")


@dataclass(frozen=True)
class Run:
    """Outputs of the chain, large arrays memory-mapped.

    Attributes:
        name: of the collection.
        class_names: by label, each on one line.
        num_images: by split.
        manifest: a row an image, in the order of the ids: split, label, class_name and source.
        pixels: uint8 [N, H, W, 3]: of every image by its id, then the augmented views.
        embeddings: float32 [N, D] of each split, of length 1.
        metrics: stage -> figures.
        history: of the training, a row an epoch.
        outcomes: id, subject, protocol, predicted, correct.
        findings: kind, ids, score, why; None where an earlier version evaluated.
        few_labels: subject, num_images, mean, low, high; None likewise.
        recall: of the kinds of index that were built: factory, parameters, work_per_query, recall_at_10, low,
            high; None likewise.
        viewed: ids of the images of the augmented views, [V].
        encoder: its metadata.
        is_trained_on_these: whether the collection is as it was when the encoder was trained.
        hashes: what the run depended on -> sha256.
        params: of params.yaml.
        version: of the project.
    """

    name: str
    class_names: Sequence[str]
    num_images: Mapping[str, int]
    manifest: pd.DataFrame
    pixels: Stacked
    embeddings: Sequence[NDArray[np.float32]]
    metrics: Mapping[str, Mapping[str, Any]]
    history: pd.DataFrame
    outcomes: pd.DataFrame
    findings: pd.DataFrame | None
    few_labels: pd.DataFrame | None
    recall: pd.DataFrame | None
    viewed: NDArray[np.int64]
    encoder: Mapping[str, Any]
    is_trained_on_these: bool
    hashes: Mapping[str, str]
    params: Mapping[str, Any]
    version: str

    @property
    def size(self) -> int:
        """How many images there are."""
        return len(self.manifest)

    @property
    def has_labels(self) -> bool:
        return bool(self.class_names)

    def of_split(self, split: str) -> NDArray[np.int64]:
        """The ids of a split's images."""
        return np.flatnonzero((self.manifest["split"] == split).to_numpy(dtype=bool))

    def embedding(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Those of some images, float32 [len(ids), D], copied."""
        chosen = np.empty((len(ids), self.embeddings[0].shape[1]), dtype=np.float32)
        first = 0
        for of_split in self.embeddings:
            here = (ids >= first) & (ids < first + len(of_split))
            chosen[here] = of_split[ids[here] - first]
            first += len(of_split)
        return chosen

    def answers(self, protocol: str) -> pd.DataFrame:
        """What the encoder said of the test images: id, predicted, correct; maybe no row."""
        table = self.outcomes
        chosen = (table["subject"] == "encoder") & (table["protocol"] == protocol)
        return table.loc[chosen, ["id", "predicted", "correct"]]


def read_run(data: Artifacts, params: Mapping[str, Any]) -> Run:
    """Reads what stands under a data folder.

    Args:
        data: of a finished chain, but for the report.
        params: the values of its params.yaml.

    Raises:
        UserError: a file is missing or damaged; the message names the stage that makes it.
    """
    collection = data.read_collection()
    # the words of Parquet stay Arrow's: as Python's own they would take ten times the memory
    manifest = data.read_manifest(["split", "label", "class_name", "source"])
    splits = data.splits()
    images = [data.read_images(split) for split in splits]
    encoder = Encoder.open(data.encoder, "cpu")
    # a training that was kept while the collection grew saw other images under these ids
    is_of_these = encoder.metadata.get("data_sha256") in (None, collection["sha256"])
    viewed, views = _views(data, manifest) if is_of_these else (np.empty(0, dtype=np.int64), [])
    return Run(
        name=printable(str(collection["name"])),
        class_names=[printable(name) for name in collection["class_names"]],
        num_images={split: collection["num_images"][split] for split in splits},
        manifest=manifest,
        pixels=Stacked([*images, *views]),
        embeddings=[data.read_embeddings(split) for split in splits],
        metrics={stage: read_json(data.metrics(stage), made_by=stage) for stage in _METRICS},
        history=pd.read_csv(existing(data.pretrain / "history.tsv", made_by="pretrain"), sep="\t"),
        outcomes=pd.read_parquet(existing(data.outcomes, made_by="evaluate")),
        findings=_findings(data, len(manifest)),
        few_labels=_table(data.evaluation / "few_labels.tsv"),
        recall=_table(IndexFolder(data.index).curves),
        viewed=viewed,
        encoder=encoder.metadata,
        is_trained_on_these=is_of_these,
        hashes=_hashes(data, collection, encoder),
        params=params,
        version=importlib.metadata.version("lookalike"),
    )


def _views(data: Artifacts, manifest: pd.DataFrame) -> tuple[NDArray[np.int64], list[NDArray[np.uint8]]]:
    """The images that have a view, and the views; none where a run wrote none.

    Raises:
        UserError: there are more or fewer views than images that have one.
    """
    if not data.augmented.exists():
        return np.empty(0, dtype=np.int64), []
    viewed = scored_images(manifest).viewed
    views = data.read_augmented()
    if len(views) != len(viewed):
        raise UserError(
            f"{data.augmented}: has {len(views)} views, and {len(viewed)} images are viewed: "
            "run 'dvc repro pretrain'"
        )
    # train stands first, so its rows are ids
    return viewed, [views] if len(views) else []


def _findings(data: Artifacts, num_images: int) -> pd.DataFrame | None:
    if not data.findings.exists():
        return None
    table = pd.read_parquet(data.findings, columns=list(FINDINGS))
    largest = max((max(ids) for ids in table["ids"] if len(ids)), default=-1)
    if largest >= num_images:
        raise UserError(
            f"{data.findings}: has image {largest}, and there are {num_images}: run 'dvc repro evaluate'"
        )
    return table


def _table(path: Path) -> pd.DataFrame | None:
    return pd.read_csv(path, sep="\t") if path.exists() else None


def _hashes(data: Artifacts, collection: Mapping[str, Any], encoder: Encoder) -> dict[str, str]:
    hashes = {
        "collection": str(collection["sha256"]),
        "manifest.parquet": sha256_of(data.manifest),
        "encoder.onnx": encoder.sha256,
        "weights that training began with": encoder.metadata.get("weights_sha256") or "random",
    }
    for path in sorted(Path(data.code).glob("*.json")):
        hashes[f"code of stage {path.stem}"] = str(read_json(path, made_by="scan")["sha256"])
    return hashes
