"""A finished chain made by hand, in a second and without torch, that several test files make a page of."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
from numpy.typing import NDArray
from onnx import TensorProto, helper

from pipeline.artifacts import Artifacts, sha256_of, write_json
from pipeline.evaluation.scored import scored_images
from pipeline.search.building.certificate import Recall
from pipeline.search.building.curve import write_curves
from pipeline.search.building.tuning import Point
from pipeline.search.index_folder import IndexFolder

HOSTILE = (
    "<script>window.hacked=1</script>",
    "</script><script>window.hacked=2</script>",
    '"><img src=x onerror="window.hacked=3">',
    "{{ 7 * 7 }} & \u2028 'quoted'",
)


@dataclass
class Made:
    """What is made: changed by who wants another collection."""

    class_names: tuple[str, ...] = HOSTILE
    num_images: dict[str, int] = field(default_factory=lambda: {"train": 90, "test": 30})
    size: int = 32
    epochs: int = 3
    views: bool = True
    findings: list[tuple[str, list[int], float, str]] | None = None
    spread: float = 0.5
    seed: int = 0
    trained_on: str | None = None  # another collection's hash
    finetuned: bool = False

    @property
    def total(self) -> int:
        return sum(self.num_images.values())


def some_findings() -> list[tuple[str, list[int], float, str]]:
    """Of each kind; the near-duplicates grow from two pairs to one group of five."""
    pairs = [("near_duplicate", [10 + 2 * i, 11 + 2 * i], 0.99 - 0.001 * i, f"pair {i}") for i in range(3)]
    return [
        ("exact_copy", [0, 1], 1.0, "2 files with the same bytes"),
        *pairs,
        ("near_duplicate", [10, 11, 12, 13], 0.96, "4 pictures"),
        ("near_duplicate", [10, 11, 12, 13, 20], 0.93, "5 pictures"),
        ("near_duplicate", [30, 31], 0.91, "2 pictures"),
        ("train_test_pair", [3, 95], 0.98, "in train and in test"),
        ("train_test_pair", [4, 96], 0.92, "in train and in test"),
        *(("outlier", [40 + i], 9.0 - i, f"far away <b>{i}</b>") for i in range(6)),
        *(("label", [50 + i], 0.95 - 0.02 * i, "neighbours say another class") for i in range(30)),
    ]


def make_run(root: Path, made: Made | None = None) -> Artifacts:
    """Writes the outputs of every stage but `report` under a data folder; returns it."""
    made = made or Made(findings=some_findings())
    rng = np.random.default_rng(made.seed)
    data = Artifacts(root)
    num_classes = len(made.class_names)
    labels = rng.integers(0, num_classes, made.total) if num_classes else np.full(made.total, -1)
    if num_classes:
        labels[: min(num_classes, made.total)] = np.arange(num_classes)[: made.total]
    _write_images(data, made, labels, rng)
    manifest = _write_manifest(data, made, labels)
    _write_embeddings(data, made, labels, rng)
    _write_training(data, made, manifest, rng)
    _write_evaluation(data, made, labels, rng)
    for stage in ("fetch", "evaluate"):
        write_json(data.stage_code(stage), {"sha256": "c0de" * 16})
    return data


def _write_images(data: Artifacts, made: Made, labels: NDArray[np.int64], rng: np.random.Generator) -> None:
    data.images.mkdir(parents=True)
    first = 0
    for split, count in made.num_images.items():
        images = rng.integers(0, 90, (count, made.size, made.size, 3), dtype=np.uint8)
        for image, label in zip(images, labels[first : first + count], strict=True):
            image[:, :: 2 + int(label) % 7, int(label) % 3] += 120
        np.save(data.images / f"{split}.npy", images)
        first += count
    write_json(
        data.collection,
        {
            "name": "hand & made",
            "image_size": made.size,
            "class_names": list(made.class_names),
            "num_images": made.num_images,
            "sha256": "da7a" * 16,
        },
    )


def _write_manifest(data: Artifacts, made: Made, labels: NDArray[np.int64]) -> pd.DataFrame:
    manifest = pd.DataFrame(
        {
            "id": np.arange(made.total),
            "split": np.repeat(list(made.num_images), list(made.num_images.values())),
            "label": labels,
            "class_name": [made.class_names[label] if label >= 0 else None for label in labels],
            "source": [f"a folder/<i>{number}</i>.png" for number in range(made.total)],
            "width": made.size,
            "height": made.size,
            "sha256": [f"{number:064x}" for number in range(made.total)],
        }
    )
    manifest.to_parquet(data.manifest, index=False)
    return manifest


def _write_embeddings(
    data: Artifacts, made: Made, labels: NDArray[np.int64], rng: np.random.Generator
) -> None:
    """Classes as clouds around the corners of a simplex."""
    data.encoders.mkdir(parents=True)
    write_encoder(data.encoder, made.size, made.trained_on)
    data.embeddings.mkdir(parents=True)
    corners = rng.standard_normal((max(1, len(made.class_names)), 16))
    features = corners[np.maximum(labels, 0)] + made.spread * rng.standard_normal((made.total, 16))
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    first = 0
    for split, count in made.num_images.items():
        np.save(data.embeddings / f"{split}.npy", features[first : first + count].astype(np.float32))
        first += count
    card = {"encoder.onnx": sha256_of(data.encoder), "manifest.parquet": sha256_of(data.manifest)}
    write_json(data.embeddings_card, card)


def write_encoder(path: Path, size: int, trained_on: str | None = None) -> None:
    """The smallest ONNX file that has an encoder's metadata."""
    given = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", size, size, 3])
    made = helper.make_tensor_value_info("embeddings", TensorProto.UINT8, ["batch", size, size, 3])
    node = helper.make_node("Identity", ["images"], ["embeddings"])
    model = helper.make_model(
        helper.make_graph([node], "encoder", [given], [made]),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    metadata = {
        "image_size": str(size),
        "feature_dim": "16",
        "backbone": '"resnet20"',
        "method": '"simclr"',
        "weights_sha256": "null",
    }
    if trained_on is not None:
        metadata["data_sha256"] = f'"{trained_on}"'
    helper.set_model_props(model, metadata)
    onnx.save(model, path)


def _write_training(data: Artifacts, made: Made, manifest: pd.DataFrame, rng: np.random.Generator) -> None:
    data.pretrain.mkdir(parents=True)
    epochs = np.arange(made.epochs + 1)
    columns: dict[str, Any] = {"epoch": epochs, "lr": 0.1 / (1 + epochs)}
    if made.epochs:
        columns |= {"loss": 5 / (1 + epochs), "knn_top1": 0.5 + 0.1 * epochs, "probe_top1": 0.1 * epochs}
        columns |= {"projection_std": 0.1 + 0 * epochs, "effective_rank": 5.0 + epochs}
    pd.DataFrame(columns).to_csv(data.pretrain / "history.tsv", sep="\t", index=False)
    gain = {"knn_gain": 0.3, "knn_gain_low": 0.2, "knn_gain_high": 0.4} if made.epochs else {}
    last = {name: float(of[-1]) for name, of in columns.items()}
    write_json(data.metrics("pretrain"), {**last, "kept_epoch": made.epochs, **gain})
    viewed = scored_images(manifest).viewed
    if made.views:
        views = rng.integers(0, 255, (len(viewed), made.size, made.size, 3), dtype=np.uint8)
        np.save(data.augmented, views)


def _write_evaluation(
    data: Artifacts, made: Made, labels: NDArray[np.int64], rng: np.random.Generator
) -> None:
    data.evaluation.mkdir(parents=True)
    train = made.num_images.get("train", 0)
    test_ids = np.arange(train, train + made.num_images.get("test", 0))
    spread = {"effective_rank": 7.5, "uniformity": -1.0, "collapsed": made.spread == 0}
    scores: dict[str, Any] = {"encoder": {"spread": spread}}
    columns = {"id": int, "subject": str, "protocol": str, "predicted": int, "correct": bool}
    outcomes = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})
    if len(made.class_names) > 1 and len(test_ids):
        scores, outcomes = _scores(made, labels, test_ids, rng)
        _few_labels().to_csv(data.evaluation / "few_labels.tsv", sep="\t", index=False)
    hubness = {"largest_share": 0.2, "most_returned": 24, "never_returned": 0.1}
    scores["encoder"] |= {"spread": spread, "hubness": hubness, "views": {"consistency": 0.8}}
    write_json(data.metrics("evaluate"), scores)
    outcomes.to_parquet(data.outcomes, index=False)
    if made.findings is not None:
        table = pd.DataFrame(made.findings, columns=["kind", "ids", "score", "why"])
        table.to_parquet(data.findings, index=False)
    write_json(data.metrics("fetch"), {"num_images": made.num_images, "num_rejected": 2})
    recall = {"recall_at_10": 0.995, "recall_at_10_low": 0.991, "recall_at_10_high": 0.997}
    index = {"factory": "IVF8,Flat", "count": made.total, "target_recall": 0.99, "target_reached": True}
    write_json(data.metrics("index"), index | (recall if made.total > 4 else dict.fromkeys(recall, 1.0)))
    data.index.mkdir()
    curve = {
        name: [
            Point({"nprobe": step}, Recall(0.9 + 0.03 * step, 0.89 + 0.03 * step, 1.0), 90.0 * step)
            for step in (1, 2, 3)
        ]
        for name in ("IVF8,Flat", "IVF8,SQ8")
    }
    write_curves(IndexFolder(data.index).curves, curve)


def _scores(
    made: Made, labels: NDArray[np.int64], test_ids: NDArray[np.int64], rng: np.random.Generator
) -> tuple[dict[str, Any], pd.DataFrame]:
    scores: dict[str, Any] = {"majority_share": 0.25, "num_classes_only_in_test": 0}
    parts = []
    subjects = {"encoder": 0.7, "start": 0.4, "pixels": 0.3} | ({"finetuned": 0.8} if made.finetuned else {})
    for subject, share in subjects.items():
        scores[subject] = {}
        for protocol in ("knn", "linear", "retrieval"):
            right = rng.random(len(test_ids)) < share
            other = (labels[test_ids] + 1 + rng.integers(0, len(made.class_names) - 1)) % len(
                made.class_names
            )
            predicted = np.where(right, labels[test_ids], other)
            top1 = float(right.mean())
            recall = {
                made.class_names[label]: float(right[labels[test_ids] == label].mean())
                for label in np.unique(labels[test_ids])
            }
            scores[subject][protocol] = {
                "top1": top1,
                "top1_low": top1 - 0.05,
                "top1_high": top1 + 0.05,
                "top1_without_pairs": top1 - 0.01,
                **({"recall": recall} if protocol != "retrieval" else {"precision_at_10": top1}),
            }
            columns = {"id": test_ids, "subject": subject, "protocol": protocol}
            parts.append(pd.DataFrame({**columns, "predicted": predicted, "correct": right}))
    scores["over_start"] = {"knn": {"top1": 0.3, "top1_low": 0.2, "top1_high": 0.4}}
    return scores, pd.concat(parts)


def _few_labels() -> pd.DataFrame:
    rows = [
        (subject, count, 0.3 + 0.1 * step + better, 0.25 + 0.1 * step + better, 0.35 + 0.1 * step + better)
        for subject, better in (("encoder", 0.2), ("start", 0.1), ("pixels", 0.0))
        for step, count in enumerate((4, 16, 90))
    ]
    return pd.DataFrame(rows, columns=["subject", "num_images", "mean", "low", "high"])
