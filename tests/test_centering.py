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
from pipeline.training.weights.centering import mean_direction
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
    assert CENTER not in train(images, LABELS, changed_run(tiny, center=True)).backbone  # of so few
    many, labels = np.concatenate([images, images]), np.concatenate([LABELS, LABELS])
    as_it_is = train(many, labels, tiny)
    assert CENTER not in as_it_is.backbone
    centred = train(many, labels, changed_run(tiny, center=True))
    assert all(torch.equal(centred.backbone[name], value) for name, value in as_it_is.backbone.items())
    center = centred.backbone[CENTER]
    assert center.shape == (centred.feature_dim,)
    # of unit vectors that all point much the same way
    assert 0.5 < float(center.norm()) <= 1
    # the start has its own: what is compared with it differs by the training alone
    alone = train(many, labels, changed_run(tiny, center=True, epochs=0))
    own = centred.start.pop(CENTER)
    assert all(torch.equal(value, alone.backbone[name]) for name, value in centred.start.items())
    assert not torch.equal(own, center)
    torch.testing.assert_close(own, alone.backbone[CENTER], atol=0.02, rtol=0)


def test_a_start_alone_is_centred_too_and_has_no_views(tiny: Pretrain, images: NDArray[np.uint8]) -> None:
    many = np.repeat(np.repeat(np.concatenate([images, images]), 2, axis=1), 2, axis=2)  # 120 of 32 px
    network = {"backbone.name": "timm:vit_tiny_patch16_224", "backbone.width": None}
    chosen = changed_run(tiny, **network, **{"epochs": 0, "center": True, "views.size": 16})
    run = train(many, np.full(len(many), -1), chosen)  # a ViT of 32 px takes no views of 16
    assert CENTER in run.backbone
    assert run.start.keys() == run.backbone.keys()
    assert run.history == [{"epoch": 0, "lr": 0.0}]


def test_of_features_that_are_all_alike_no_mean_is_taken_off() -> None:
    """What stays without it would be rounding."""
    alike = np.ones((200, 8), dtype=np.float32)
    alike[:, 0] += np.random.default_rng(0).random(200, dtype=np.float32) * 1e-3
    apart = np.random.default_rng(0).random((200, 8), dtype=np.float32)
    images, rows, one = np.zeros((200, 4, 4, 3), dtype=np.uint8), np.arange(200), torch.ones(3, 1, 1)
    assert mean_direction(Given(alike), images, rows, one, one) is None
    found = mean_direction(Given(apart), images, rows, one, one)
    assert found is not None
    np.testing.assert_allclose(found.numpy(), unit(apart).mean(axis=0), atol=1e-6)


@pytest.mark.slow
def test_a_centred_start_is_one_encoder_and_embedded_once(small_chain: Path, tmp_path: Path) -> None:
    shutil.copytree(small_chain / "data/images", tmp_path / "data/images")
    shutil.copy(small_chain / "params.yaml", tmp_path)
    change_params(tmp_path / "params.yaml", {"pretrain.epochs": 0, "pretrain.center": True})
    for stage in ("weights", "pretrain", "export", "embed", "index"):
        run_stage(stage, tmp_path)
    said = run_stage("evaluate", tmp_path).stdout.splitlines()[-1]
    assert said.endswith(": the start as it is, nothing was trained (pretrain.epochs: 0)")
    data = Artifacts(tmp_path / "data")
    assert data.encoder.read_bytes() == data.start_encoder.read_bytes()
    assert not data.start_embeddings.exists()
    assert CENTER in load_file(data.backbone)
    scores = json.loads(data.metrics("evaluate").read_text())
    scores["encoder"].pop("hubness")
    assert scores["encoder"] == scores["start"]
    session = onnxruntime.InferenceSession(data.encoder, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["centered"] == "true"
