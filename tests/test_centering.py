"""Taking off what all features have in common: against NumPy, in the file, and through the chain."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from models.weights import CENTER
from pipeline.artifacts import Artifacts
from pipeline.encoder.export import PixelEncoder
from pipeline.params.pretrain import Pretrain
from pipeline.training.loop import train
from tests.conftest import change_params
from tests.processes import run_stage
from tests.tiny_run import LABELS, changed_run


def unit(features: NDArray[np.float32]) -> NDArray[np.float64]:
    features = features.astype(np.float64)
    return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True))


class Given(torch.nn.Module):
    """A backbone whose features are given."""

    def __init__(self, features: NDArray[np.float32]) -> None:
        super().__init__()
        self.register_buffer("features", torch.from_numpy(features))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.get_buffer("features")[: len(images)]


def test_an_encoder_takes_the_mean_off_and_has_length_one() -> None:
    features = np.random.default_rng(0).random((6, 5), dtype=np.float32)
    center = unit(features).mean(axis=0)
    encoder = PixelEncoder(Given(features), [0.0] * 3, [1.0] * 3, torch.from_numpy(center.astype(np.float32)))
    found = encoder(torch.zeros(6, 4, 4, 3, dtype=torch.uint8)).numpy()
    np.testing.assert_allclose(found, unit(unit(features) - center), atol=1e-6)


def test_the_mean_is_that_of_the_kept_weights_features(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    assert train(images, LABELS, changed_run(tiny, center=True)).center is None  # of so few
    many, labels = np.concatenate([images, images]), np.concatenate([LABELS, LABELS])
    as_it_is = train(many, labels, tiny)
    assert as_it_is.center is None
    centred = train(many, labels, changed_run(tiny, center=True))
    assert all(torch.equal(value, as_it_is.backbone[name]) for name, value in centred.backbone.items())
    assert centred.center is not None
    assert centred.center.shape == (centred.feature_dim,)
    # of unit vectors that all point much the same way
    assert 0.5 < float(centred.center.norm()) <= 1


def test_a_start_alone_is_centred_too_and_has_no_views(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    many = np.repeat(np.repeat(np.concatenate([images, images]), 2, axis=1), 2, axis=2)  # 120 of 32 px
    network = {"backbone.name": "timm:vit_tiny_patch16_224", "backbone.width": None}
    chosen = changed_run(tiny, **network, **{"epochs": 0, "center": True, "views.size": 16})
    run = train(many, np.full(len(many), -1), chosen)  # a ViT of 32 px takes no views of 16
    assert run.center is not None
    assert run.history == [{"epoch": 0, "lr": 0.0}]


@pytest.mark.slow
def test_a_centred_start_is_another_encoder_than_the_start(small_chain: Path, tmp_path: Path) -> None:
    shutil.copytree(small_chain / "data/images", tmp_path / "data/images")
    shutil.copy(small_chain / "params.yaml", tmp_path)
    change_params(tmp_path / "params.yaml", {"pretrain.epochs": 0, "pretrain.center": True})
    for stage in ("weights", "pretrain", "export", "embed", "evaluate"):
        run_stage(stage, tmp_path)
    data = Artifacts(tmp_path / "data")
    stored = load_file(data.backbone)
    center = stored.pop(CENTER).numpy()
    assert set(stored) == set(load_file(data.start_backbone))
    rows = np.flatnonzero(data.read_manifest()["split"] == "test")[:200] - 4000
    before = unit(data.read_embeddings("test", of_start=True)[rows])
    after = data.read_embeddings("test")[rows]
    np.testing.assert_allclose(after, unit(before - center), atol=1e-4)
    scores = json.loads(data.metrics("evaluate").read_text())
    assert scores["encoder"]["spread"]["uniformity"] < scores["start"]["spread"]["uniformity"]
    session = onnxruntime.InferenceSession(data.encoder, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["centered"] == "true"
