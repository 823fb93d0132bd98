"""Fine-tuning: what a share of the labels teaches a backbone, what it never looks at, and what it refuses."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save

from models.backbones import build_backbone
from models.classifier import CosineClassifier, class_sums
from models.weights import CENTER, weights_on_cpu
from pipeline.artifacts import UNLABELLED, Artifacts, write_json
from pipeline.encoder.export import PixelEncoder, load_backbone
from pipeline.encoder.finetuned import FinetuneFolder
from pipeline.encoder.runtime import Encoder
from pipeline.errors import NotFiniteError, UserError
from pipeline.evaluation.scored import scored_images
from pipeline.params.finetune import Finetune
from pipeline.params.reader import Params
from pipeline.training.finetuning.finetune import Finetuned, finetune
from pipeline.training.finetuning.share import labelled_share
from pipeline.training.finetuning.tuner import Start
from tests.conftest import ROOT, change_params
from tests.processes import fails, run, run_stage, start_stage, use_every_core, wait_until

pytestmark = pytest.mark.xdist_group("finetune")  # one project, made once

NUM_CLASSES = 4
SIZE = 16
LITTLE: dict[str, Any] = {
    "epochs": 12,
    "share": 0.4,
    "batch_size": 16,
    "lr": 0.01,
    "backbone_lr_factor": 1.0,
    "batch_norm": "train",
    "device": "cpu",
    "precision": "float32",
}


def planted(num_each: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Stripes of four directions, under a colour, a phase and noise that say nothing of the direction."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(NUM_CLASSES), num_each))
    down, across = np.mgrid[:SIZE, :SIZE]
    place = np.stack([across, down, across + down, across - down])[labels]
    phase = rng.integers(0, 6, (len(labels), 1, 1))
    stripes = ((place + phase) % 6 < 3)[..., None] * 50.0
    colour = rng.uniform(40, 180, (len(labels), 1, 1, 3))
    noise = rng.normal(0, 15, (len(labels), SIZE, SIZE, 3))
    return (stripes + colour + noise).clip(0, 255).astype(np.uint8), labels


def little(params: Params, **changes: Any) -> Finetune:
    return Finetune.model_validate(params.finetune.model_dump() | LITTLE | changes)


def untrained() -> PixelEncoder:
    torch.manual_seed(0)
    backbone = build_backbone("resnet20", width=4, image_size=SIZE).module
    backbone(torch.randn(64, 3, SIZE, SIZE))  # moves the running statistics of the batch norms
    return PixelEncoder(backbone, [0.5] * 3, [0.25] * 3).eval()


def tuned(
    module: PixelEncoder, images: NDArray[np.uint8], labels: NDArray[np.int64], params: Finetune
) -> Finetuned:
    rows = labelled_share(labels, params)
    start = Start(module.backbone, module.mean, module.std, center=False, depthwise=0.0)
    return finetune(images, rows, labels[rows], start, params)


@torch.no_grad()
def nearest_mean(module: PixelEncoder, train: Any, test: Any) -> float:
    """Top-1 of the nearest class mean: an oracle that shares no code with the classifier that learned."""
    module.eval()
    seen, asked = (module(torch.from_numpy(images)).numpy() for images, _ in (train, test))
    means = np.stack([seen[train[1] == label].mean(axis=0) for label in range(NUM_CLASSES)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return float(((asked @ means.T).argmax(axis=1) == test[1]).mean())


@pytest.mark.parametrize("batch_norm", ["train", "frozen"])
def test_planted_classes_are_learned_from_few_labels(params: Params, batch_norm: str) -> None:
    train, test = planted(60, seed=0), planted(40, seed=1)
    module = untrained()
    before = nearest_mean(module, train, test)
    run = tuned(module, *train, little(params, batch_norm=batch_norm))
    assert nearest_mean(module, train, test) > before + 0.2
    assert [row["epoch"] for row in run.history] == list(range(1, 13))
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    assert run.history[-1]["lr"] < run.history[1]["lr"]


def test_shuffled_labels_teach_nothing(params: Params) -> None:
    (images, labels), test = planted(60, seed=0), planted(40, seed=1)
    module = untrained()
    shuffled = np.random.default_rng(5).permutation(labels)
    tuned(module, images, shuffled, little(params, epochs=4))
    # of 160 images a quarter is right by chance, with a standard error of 0.034
    assert nearest_mean(module, (images, shuffled), test) == pytest.approx(0.25, abs=0.15)


def test_equal_runs_end_in_equal_weights_and_another_seed_in_others(params: Params) -> None:
    train = planted(20, seed=0)
    runs = [tuned(untrained(), *train, little(params, epochs=2, seed=seed)) for seed in (0, 0, 1)]
    first, again, other = (save(run.backbone) for run in runs)
    assert first == again
    assert runs[0].history == runs[1].history
    assert first != other


def test_only_the_labels_of_the_share_are_read(params: Params) -> None:
    images, labels = planted(20, seed=0)
    chosen = little(params, epochs=1)
    rows = labelled_share(labels, chosen)
    module = untrained()
    start = Start(module.backbone, module.mean, module.std, center=False, depthwise=0.0)
    alone = images.copy()
    alone[np.setdiff1d(np.arange(len(images)), rows)] = 0  # nor are the other images looked at
    expected = save(finetune(alone, rows, labels[rows], start, chosen).backbone)
    assert save(tuned(untrained(), images, labels, chosen).backbone) == expected


def test_frozen_batch_norms_stay_as_they_are(params: Params) -> None:
    module = untrained()
    before = weights_on_cpu(module.backbone)
    after = tuned(module, *planted(20, seed=0), little(params, epochs=1, batch_norm="frozen")).backbone
    kept = {name for name in before if torch.equal(before[name], after[name])}
    norms = {name for name in before if "running" in name or name.endswith("num_batches_tracked")}
    assert norms <= kept
    assert any(name.endswith("weight") for name in set(before) - kept)


def test_the_share_has_every_class_however_rare() -> None:
    labels = np.array([3] * 2 + [UNLABELLED] * 50 + [5] * 500 + [7] * 300)
    for share, expected in ((0.01, 8), (0.1, 80), (1.0, 802)):
        chosen = Finetune.model_construct(epochs=1, share=share, seed=1, batch_size=4)
        rows = labelled_share(labels, chosen)
        assert len(rows) == expected == len(np.unique(rows))
        assert set(labels[rows]) == {3, 5, 7}
    assert (labels[rows] == 5).sum() == 500


@pytest.mark.parametrize(
    ("labels", "changes", "line"),
    [
        (
            [UNLABELLED] * 9,
            {},
            "finetune.epochs is 12, but no training image has a label, so there is nothing to learn from",
        ),
        (
            [],
            {},
            "finetune.epochs is 12, but no training image has a label, so there is nothing to learn from",
        ),
        (
            [2] * 9 + [UNLABELLED],
            {},
            "finetune.epochs is 12, but all labelled training images are of one class, so there is nothing",
        ),
        (
            [0, 1, 2] * 100,
            {"share": 0.005},
            "finetune.share: 0.005 of 300 labels is 2, fewer than one for each of 3 classes: set it to 0.01",
        ),
        (
            [0, 1] * 50,
            {"share": 0.1},
            "finetune.batch_size: 16 is more than the 10 images of finetune.share: choose a smaller batch or",
        ),
    ],
)
def test_labels_that_do_not_allow_it_are_one_line(
    params: Params, labels: list[int], changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(UserError) as error:
        labelled_share(np.array(labels, dtype=np.int64), little(params, **changes))
    assert str(error.value).startswith(f"params.yaml: {line}")
    assert "\n" not in str(error.value)


def test_a_rate_that_breaks_it_is_one_line(params: Params) -> None:
    with pytest.raises(NotFiniteError, match=r"no longer finite in epoch 1 .*: lower finetune\.lr in params"):
        tuned(untrained(), *planted(20, seed=0), little(params, lr=1e30))


def test_the_classifier_is_the_cosine_to_the_mean_of_each_class() -> None:
    rng = np.random.default_rng(0)
    embeddings, labels = (
        torch.from_numpy(rng.standard_normal((12, 5), dtype=np.float32)),
        rng.permutation(12) % 3,
    )
    means = torch.stack([embeddings[labels == label].mean(dim=0) for label in range(3)])
    sums = class_sums(embeddings, torch.from_numpy(labels), 3)
    torch.testing.assert_close(sums / 4, means)
    unit = F.normalize(embeddings, dim=1)
    logits = CosineClassifier(sums, temperature=0.5)(unit)
    expected = F.cosine_similarity(unit[:, None], means[None], dim=2) / 0.5
    torch.testing.assert_close(logits, expected)


# The stage, on a project of planted classes.


def write_project(folder: Path) -> None:
    """What the stages before `finetune` would have left: an untrained backbone, its mean taken off."""
    data = Artifacts(folder / "data")
    data.images.mkdir(parents=True)
    parts = {"train": planted(60, seed=0), "test": planted(10, seed=1)}
    for split, (images, _) in parts.items():
        np.save(data.images / f"{split}.npy", images)
    manifest = pd.DataFrame(
        {
            "id": np.arange(280),
            "split": ["train"] * 240 + ["test"] * 40,
            "label": np.concatenate([labels for _, labels in parts.values()]),
            "class_name": "planted",
            "source": [f"{number}.png" for number in range(280)],
            "sha256": [f"{number:064x}" for number in range(280)],
        }
    )
    manifest.to_parquet(data.manifest, index=False)
    class_names = ["across", "down", "rising", "falling"]
    write_json(
        data.collection,
        {
            "name": "planted",
            "image_size": SIZE,
            "class_names": class_names,
            "num_images": {"train": 240, "test": 40},
            "sha256": "c" * 64,
        },
    )
    module = untrained()
    card = {
        "method": "simclr",
        "backbone": {"name": "resnet20", "width": 4, "stem": "auto", "features": "last"},
        "feature_dim": 16,
        "image_size": SIZE,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "collection": "planted",
        "weights_sha256": None,
        "params_sha256": "p" * 64,
        "data_sha256": "c" * 64,
    }
    weights = weights_on_cpu(module.backbone)
    with torch.no_grad():
        weights[CENTER] = module(torch.from_numpy(parts["train"][0])).mean(dim=0)
    data.pretrain.mkdir()
    for path in (data.backbone, data.start_backbone):
        path.write_bytes(save(weights, {"lookalike": json.dumps(card)}))
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    few = {"evaluate.linear.C": [1.0], "evaluate.linear.few_label_seeds": [0, 1]}
    change_params(folder / "params.yaml", few | {f"finetune.{key}": value for key, value in LITTLE.items()})
    run_stage("export", folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which `finetune` ran."""
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    run_stage("finetune", folder)
    return folder


def test_the_folder_holds_the_encoder_its_history_and_the_scored_embeddings(project: Path) -> None:
    folder = FinetuneFolder(project / "data/finetune")
    assert set(contents(folder.path)) == {
        *("finetune.json", "backbone.safetensors", "encoder.onnx", "history.tsv"),
        *("embeddings/train.npy", "embeddings/test.npy"),
    }
    card = json.loads(folder.card.read_text())
    assert (card["epochs"], card["share"], card["num_images"]) == (12, 0.4, 96)
    history = pd.read_csv(folder.history, sep="\t")
    assert list(history.columns) == ["epoch", "loss", "lr", "top1"]
    assert len(history) == 12
    speed = json.loads((project / "data/speed/finetune.json").read_text())
    assert (speed["device"], speed["precision"]) == ("cpu", "float32")


def test_the_encoder_is_exported_as_the_others_are_and_says_that_it_was_finetuned(project: Path) -> None:
    data = Artifacts(project / "data")
    folder = FinetuneFolder(data.finetune)
    encoder, shipped = Encoder.open(folder.encoder, "cpu"), Encoder.open(data.encoder, "cpu")
    assert encoder.metadata["method"] == "simclr+finetuned"
    assert encoder.metadata["centered"] is True
    differ = {key for key, value in shipped.metadata.items() if encoder.metadata[key] != value}
    assert differ == {"method", "params_sha256"}
    module, _ = load_backbone(folder.backbone)
    manifest = data.read_manifest()
    for split in ("train", "test"):
        images = data.read_images(split)[scored_images(manifest).features_of(split)]
        embeddings = np.load(folder.embeddings / f"{split}.npy")
        with torch.no_grad():
            np.testing.assert_allclose(embeddings, module(torch.from_numpy(images)).numpy(), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_the_mean_of_the_learned_features_is_taken_off_as_that_of_the_starts_was(project: Path) -> None:
    data = Artifacts(project / "data")
    module, _ = load_backbone(FinetuneFolder(data.finetune).backbone)
    before, center = load_file(data.backbone)[CENTER], module.center
    assert center is not None
    module.center = None
    with torch.no_grad():
        features = module(torch.from_numpy(data.read_images("train").copy()))
    torch.testing.assert_close(center, features.mean(dim=0), atol=1e-5, rtol=0)
    assert (center - before).norm() > 0.1


def test_the_labels_of_the_test_images_change_no_byte(project: Path, tmp_path: Path) -> None:
    copy_of(project, tmp_path)
    data = Artifacts(tmp_path / "data")
    shutil.rmtree(data.finetune)
    manifest = data.read_manifest()
    is_test = manifest["split"] == "test"
    manifest.loc[is_test, "label"] = manifest.loc[is_test, "label"].to_numpy()[::-1]
    assert not manifest.equals(Artifacts(project / "data").read_manifest())
    manifest.to_parquet(data.manifest, index=False)
    run_stage("finetune", tmp_path)
    assert contents(data.finetune) == contents(project / "data/finetune")


def test_evaluate_scores_it_beside_the_encoder_by_the_same_protocols(project: Path) -> None:
    data = Artifacts(project / "data")
    write_json(data.metrics("pretrain"), {"epoch": 1, "kept_epoch": 1})
    viewed = scored_images(data.read_manifest()).viewed
    np.save(data.augmented, data.read_images("train")[viewed])
    for stage in ("embed", "index", "evaluate"):
        run_stage(stage, project)
    scores = json.loads(data.metrics("evaluate").read_text())
    assert set(scores["finetuned"]) == set(scores["encoder"]) - {"views", "hubness"}
    # whose nearest image is of its class, by hand
    scored, folder = scored_images(data.read_manifest()), FinetuneFolder(data.finetune)
    parts = [folder.features(split, scored.rows[split], scored) for split in ("train", "test")]
    labels = np.concatenate([scored.labels[split] for split in ("train", "test")])
    cosines = parts[1] @ np.concatenate(parts).T
    cosines[np.arange(40), 240 + np.arange(40)] = -1
    by_hand = (labels[cosines.argmax(axis=1)] == labels[240:]).mean()
    assert scores["finetuned"]["retrieval"]["top1"] == pytest.approx(by_hand)
    outcomes = pd.read_parquet(data.outcomes)
    assert "finetuned" in set(outcomes["subject"])


def test_embeddings_of_other_images_are_not_scored(project: Path) -> None:
    data, folder = Artifacts(project / "data"), FinetuneFolder(project / "data/finetune")
    folder.check(data)
    scored = scored_images(data.read_manifest())
    rows = scored.rows["test"][[5, 2]]
    embedded = np.load(folder.embeddings / "test.npy")
    np.testing.assert_array_equal(folder.features("test", rows, scored), embedded[[5, 2]])
    fewer = scored_images(data.read_manifest().query("split == 'train' or id % 2"))
    with pytest.raises(UserError, match=r"test\.npy: has 40 rows, and 20 images are scored now: run 'dvc "):
        folder.features("test", rows, fewer)
    before = data.collection.read_text()
    try:
        data.collection.write_text(before.replace("cccc", "dddd"))
        with pytest.raises(UserError, match=r"finetune: was made with images c{12}, and they are dddd"):
            folder.check(data)
    finally:
        data.collection.write_text(before)


def copy_of(project: Path, folder: Path) -> None:
    shutil.copytree(project / "data", folder / "data")
    shutil.copy(project / "params.yaml", folder)


_WITHOUT_TORCH = """
import os, sys
import stages.finetune
os.chdir(sys.argv[1])
stages.finetune.main()
assert not {"torch", "onnx", "onnxruntime", "sklearn"} & set(sys.modules)
"""


def test_off_leaves_its_card_alone_and_asks_for_no_torch(project: Path, tmp_path: Path) -> None:
    """Also where it was on before."""
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "data/finetune/embeddings").mkdir(parents=True)
    done = run("python", "-c", _WITHOUT_TORCH, str(tmp_path), cwd=ROOT)
    assert done.stdout == "finetune: off (finetune.epochs: 0)\n"
    assert contents(tmp_path / "data/finetune") == {"finetune.json": b'{\n  "epochs": 0\n}\n'}
    assert not FinetuneFolder(tmp_path / "data/finetune").is_on


@pytest.mark.parametrize(
    ("changes", "missing", "line"),
    [
        (
            {"finetune.share": 0.01},
            None,
            "params.yaml: finetune.share: 0.01 of 240 labels is 2, fewer than one",
        ),
        (
            {"finetune.batch_size": 97},
            None,
            "params.yaml: finetune.batch_size: 97 is more than the 96 images",
        ),
        ({"finetune.epochs": -1}, None, "params.yaml: finetune.epochs: -1 should be greater than or equal"),
        (
            {},
            "pretrain/backbone.safetensors",
            "data/pretrain/backbone.safetensors: missing, stage 'pretrain'",
        ),
        ({}, "images/manifest.parquet", "data/images/manifest.parquet: missing, stage 'fetch' makes it"),
    ],
)
def test_a_mistake_is_one_line_of_the_stage_and_leaves_what_stood_before(
    project: Path, tmp_path: Path, changes: dict[str, Any], missing: str | None, line: str
) -> None:
    copy_of(project, tmp_path)
    change_params(tmp_path / "params.yaml", changes)
    if missing is not None:
        (tmp_path / "data" / missing).unlink()
    before = contents(tmp_path / "data/finetune")
    assert fails(2, "finetune", cwd=tmp_path).startswith(line)
    assert contents(tmp_path / "data/finetune") == before


def test_ctrl_c_is_one_line_and_loses_nothing(project: Path, tmp_path: Path) -> None:
    copy_of(project, tmp_path)
    change_params(tmp_path / "params.yaml", {"finetune.epochs": 100_000})
    before = contents(tmp_path / "data/finetune")
    stdout, stderr = tmp_path / "stdout", tmp_path / "stderr"
    process = start_stage("finetune", tmp_path, stdout, stderr, before=use_every_core)
    wait_until(lambda: stdout.exists() and "epoch 1/" in stdout.read_text())
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    line = "error: interrupted; what stood before is untouched, the same command starts again\n"
    assert stderr.read_text() == line
    assert contents(tmp_path / "data/finetune") == before
    assert not [path for path in (tmp_path / "data").iterdir() if "partial" in path.name]
