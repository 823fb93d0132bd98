"""params.yaml: a wrong value stops before any work, in one line that names key, value and rule."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic
import pytest

from models import backbones
from pipeline.errors import UserError
from pipeline.params.pretrain_backbone import NETWORKS, RESNETS, TIMM, check_network
from pipeline.params.reader import Params, load_params


def test_the_default_params_are_valid_and_frozen(params: Params) -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        params.pretrain.optimizer.lr = 0.1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("pretrain.method", "simcrl", "pretrain.method: 'simcrl' is none of simclr"),
        (
            "pretrain.backbone.name",
            "resnet19",
            f"pretrain.backbone.name: 'resnet19' is none of {', '.join(NETWORKS)}, timm:NAME; did you mean "
            "resnet18, resnet10, resnet50?",
        ),
        ("pretrain.backbone.stem", "patch", "pretrain.backbone: resnet20 has one stem: leave stem at auto"),
        ("pretrain.backbone.features", "stages", "pretrain.backbone: resnet20 has its last features alone"),
        ("pretrain.device", "gpu", "pretrain.device: 'gpu' is none of auto, cpu, cuda"),
        ("pretrain.epochs", -1, "pretrain.epochs: -1 should be greater than or equal to 0"),
        ("pretrain.epochs", 2.5, "pretrain.epochs: 2.5 should be a valid integer"),
        ("pretrain.epochs", "5", "pretrain.epochs: '5' should be a valid integer"),
        ("pretrain.epochs", True, "pretrain.epochs: True should be a valid integer"),
        ("pretrain.optimizer.lr", "fast", "pretrain.optimizer.lr: 'fast' should be a valid number"),
        ("pretrain.optimizer.lr", float("nan"), "pretrain.optimizer.lr: nan should be a finite number"),
        ("pretrain.simclr.temperature", 0, "pretrain.simclr.temperature: 0 should be greater than 0"),
        ("pretrain.views.blur.p", 1.5, "pretrain.views.blur.p: 1.5 should be less than or equal to 1"),
        ("pretrain.views", 3, "pretrain.views: 3 should be a section with keys of its own"),
        (
            "pretrain.views.crop.scale.low",
            1.2,
            "pretrain.views.crop.scale: low (1.2) must not be above high (1.0)",
        ),
        ("pretrain.views.crop.scale.high", 2.0, "pretrain.views.crop: scale.high (2.0) must not be above 1"),
        (
            "pretrain.optimizer.head_epochs",
            999,
            "pretrain: optimizer.head_epochs (999) must be below epochs",
        ),
        (
            "pretrain.backbone.weights",
            "w.npz",
            "pretrain.backbone: weights: 'w.npz' should end in one of .safetensors, .pth, .pt, .bin",
        ),
        (
            "pretrain.backbone.freeze",
            1,
            "pretrain.backbone: freeze keeps stages as they are, but ",
        ),
        ("pretrain.batchsize", 9, "pretrain.batchsize: unknown key, did you mean batch_size?"),
        (
            "zzz",
            1,
            "zzz: unknown key; known here: dataset, pretrain, export, finetune, embed, index, evaluate",
        ),
        ("embed.batch_size", None, "embed.batch_size: missing"),
        ("evaluate.linear.C", [], "evaluate.linear.C: [] should have at least 1 values"),
    ],
)
def test_a_wrong_value_is_one_line_with_key_value_and_rule(
    changed_params: Callable[..., Path], key: str, value: Any, line: str
) -> None:
    path = changed_params(**{key: value})
    with pytest.raises(UserError) as error:
        load_params(path)
    assert str(error.value).startswith(f"{path}: {line}")
    assert "\n" not in str(error.value)


def test_the_networks_that_params_may_name_are_those_that_can_be_built() -> None:
    assert set(NETWORKS) == set(backbones.BACKBONES)
    assert set(RESNETS) == set(backbones.RESNETS)
    assert backbones.PREFIX == TIMM


@pytest.mark.parametrize("name", ["resnet18", "timm:convnext_atto", "timm:resnet18.a1_in1k"])
def test_a_network_that_there_is_passes(changed_params: Callable[..., Path], name: str) -> None:
    check_network(load_params(changed_params(**{"pretrain.backbone.name": name})))


def test_a_model_that_timm_has_not_is_one_line_with_the_nearest(changed_params: Callable[..., Path]) -> None:
    chosen = load_params(changed_params(**{"pretrain.backbone.name": "timm:convnext_ato"}))
    with pytest.raises(
        UserError, match=r"pretrain\.backbone\.name: 'timm:convnext_ato': .* did you mean timm:convnext_atto"
    ):
        check_network(chosen)


def test_several_wrong_values_name_the_first_and_count_the_others(
    changed_params: Callable[..., Path],
) -> None:
    path = changed_params(**{"embed.batch_size": 0, "index.factory": 3})
    with pytest.raises(UserError, match=r"embed\.batch_size: 0 should be .* \(and 1 more\)$"):
        load_params(path)


def test_a_misspelt_key_is_named_before_the_one_missing(changed_params: Callable[..., Path]) -> None:
    path = changed_params()
    path.write_text(path.read_text().replace("  epochs:", "  epcohs:", 1))
    with pytest.raises(
        UserError, match=r"pretrain\.epcohs: unknown key, did you mean epochs\? \(and 1 more\)$"
    ):
        load_params(path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"a: [1,\nb: 2", "line 2: not YAML"),
        (b"a: 1\na: 2", "not YAML: found duplicate key"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b"", "the file: None should be a section"),
        (b"- 1", "the file: (1,) should be a section"),
    ],
)
def test_a_file_that_is_no_params_is_one_line(tmp_path: Path, text: bytes, line: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(text)
    with pytest.raises(UserError, match=r"params\.yaml") as error:
        load_params(path)
    assert line in str(error.value)


def test_a_missing_file_says_where_to_go(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not in this folder: run the command at the project's top"):
        load_params(tmp_path / "params.yaml")


def test_numbers_are_read_as_dvc_reads_them(changed_params: Callable[..., Path]) -> None:
    path = changed_params()
    path.write_text(path.read_text().replace("max_abs_difference: 0.00001", "max_abs_difference: 1e-5"))
    assert load_params(path).export.max_abs_difference == 1e-5
