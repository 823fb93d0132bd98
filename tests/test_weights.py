"""Files of weights: read without their code, held against the network, told when they are another's."""

import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from models.backbones import build_backbone
from models.weights import misfit, read_statistics, read_weights


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_backbone("resnet20", width=4, image_size=16).module


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
def test_a_networks_own_weights_come_back_from_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    saved = network(1).state_dict()
    if suffix == ".safetensors":
        save_file(saved, path)
    else:
        torch.save(saved, path)
    torch.manual_seed(2)
    loaded = build_backbone("resnet20", width=4, image_size=16, weights=path)
    assert all(torch.equal(value, saved[name]) for name, value in loaded.module.state_dict().items())
    assert (loaded.mean, loaded.std) == (None, None)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_of_a_checkpoint_the_network_is_taken(tmp_path: Path, wrapper: str) -> None:
    saved = network(1).state_dict()
    parallel = {f"module.{name}": value for name, value in saved.items()}
    torch.save({wrapper: parallel, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "checkpoint.pth")
    assert list(read_weights(tmp_path / "checkpoint.pth")) == list(saved)


class Payload:
    """What a pickle would run when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("touched"),)  # type: ignore[return-value]


def test_the_code_of_a_pickle_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"stem.0.weight": Payload()}))
    with pytest.raises(ValueError, match=r"evil\.pth: ") as error:
        read_weights(path)
    torch.save({"stem.0.weight": torch.zeros(2), "more": Payload()}, path)
    with pytest.raises(
        ValueError, match="would have to be run as code to be read: save the network's"
    ) as error:
        read_weights(path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth", "text.pth", "empty.bin", "empty.safetensors"])
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "cut.safetensors":
        save_file(network(1).state_dict(), path)
    elif name == "cut.pth":
        torch.save(network(1).state_dict(), path)
    content = path.read_bytes()[:2000] if path.exists() else b"no weights" if name == "text.pth" else b""
    path.write_bytes(content)
    with pytest.raises(ValueError, match=str(path)) as error:
        read_weights(path)
    assert "\n" not in str(error.value)


def test_weights_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    weights = network(1).state_dict()
    weights["stem.1.bias"][2] = float("nan")
    save_file(weights, tmp_path / "nan.safetensors")
    with pytest.raises(ValueError, match=r"nan\.safetensors: stem\.1\.bias not finite: the training that"):
        read_weights(tmp_path / "nan.safetensors")


def test_a_file_without_tensors_by_name_is_told(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match="holds no tensors by name: save the network's state_dict"):
        read_weights(tmp_path / "tensor.pth")


def test_another_networks_weights_are_told_by_tensor_and_reason(tmp_path: Path) -> None:
    weights = dict(network(1).state_dict())
    weights["stem.0.weight"] = torch.zeros(5, 3, 3, 3)
    del weights["stem.1.weight"], weights["stem.1.num_batches_tracked"]
    weights["head.weight"] = torch.zeros(10, 16)
    expected = (
        "it has no stem.1.weight; stem.0.weight of another shape ([5, 3, 3, 3], not [4, 3, 3, 3]); "
        "no place for head.weight"
    )
    assert misfit(network(2), weights) == expected
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors: not weights of this network: it has no stem"):
        build_backbone("resnet20", width=4, image_size=16, weights=tmp_path / "other.safetensors")
    assert misfit(network(2), network(1).state_dict()) == ""


def test_a_larger_network_of_the_same_family_is_another(tmp_path: Path) -> None:
    """Every tensor of timm's ResNet-18 stands in ResNet-34's file, and more: it is no ResNet-18's."""
    torch.save(timm.create_model("resnet34").state_dict(), tmp_path / "resnet34.pth")
    with pytest.raises(
        ValueError, match=r"backbone 'timm:resnet18': no place for layer1\.2\.conv1\.weight, "
    ):
        build_backbone("timm:resnet18", width=None, image_size=32, weights=tmp_path / "resnet34.pth")


def test_a_timm_file_may_have_its_classifier_or_not(tmp_path: Path) -> None:
    torch.manual_seed(1)
    published = timm.create_model("test_resnet", num_classes=1000).state_dict()
    without = {name: value for name, value in published.items() if not name.startswith("fc.")}
    assert len(without) == len(published) - 2
    for number, saved in enumerate((published, without)):
        torch.save(saved, tmp_path / f"{number}.pth")
        loaded = build_backbone(
            "timm:test_resnet", width=None, image_size=32, weights=tmp_path / f"{number}.pth"
        )
        assert all(torch.equal(value, published[name]) for name, value in loaded.module.state_dict().items())
        assert loaded.mean == loaded.std == (0.5, 0.5, 0.5)  # timm's notes of it


def test_weights_of_stage_pretrain_bring_their_mean_and_std(tmp_path: Path) -> None:
    path = tmp_path / "backbone.safetensors"
    card = '{"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}'
    save_file(network(1).state_dict(), path, {"lookalike": card})
    assert read_statistics(path) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    loaded = build_backbone("resnet20", width=4, image_size=16, weights=path)
    assert (loaded.mean, loaded.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize("name", ["caformer_s18", "levit_128s", "efficientvit_m0", "repvit_m0_9", "shvit_s1"])
def test_a_classifier_of_several_layers_is_left_out_too(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    published = timm.create_model(name).state_dict()
    torch.save(published, tmp_path / "weights.pth")
    loaded = build_backbone(
        f"timm:{name}", width=None, image_size=224, weights=tmp_path / "weights.pth"
    ).module
    assert all(torch.equal(value, published[name]) for name, value in loaded.state_dict().items())


def test_timms_own_file_of_the_packaged_network_keeps_timms_statistics(tmp_path: Path) -> None:
    torch.save(timm.create_model("efficientnet_lite0").state_dict(), tmp_path / "lite.pth")
    loaded = build_backbone("efficientnet_lite0", width=None, image_size=64, weights=tmp_path / "lite.pth")
    assert loaded.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.complex64])
def test_numbers_that_are_no_weights_are_one_line(dtype: torch.dtype, tmp_path: Path) -> None:
    saved = {name: value.to(dtype) for name, value in network(1).state_dict().items()}
    torch.save(saved, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth: stem.* of torch\..*: save the weights as float32"):
        read_weights(tmp_path / "odd.pth")


def test_indexes_and_masks_of_a_published_file_are_no_weights(tmp_path: Path) -> None:
    """Swin's authors store `relative_position_index`, which timm leaves out."""
    index = {
        "layers.0.attn.relative_position_index": torch.arange(4),
        "attn_mask": torch.ones(2, dtype=torch.bool),
    }
    saved = network(1).state_dict() | index
    torch.save(saved, tmp_path / "swin.pth")
    assert read_weights(tmp_path / "swin.pth").keys() == saved.keys()


@pytest.mark.parametrize(
    "card",
    ['{"mean": 0.5}', "not json", '{"mean": [0.1, 0.2], "std": [1, 1]}', '{"mean": [0,0,0], "std": [0,0,0]}'],
)
def test_a_damaged_note_of_pixels_is_one_line(card: str, tmp_path: Path) -> None:
    save_file(network(1).state_dict(), tmp_path / "odd.safetensors", {"lookalike": card})
    with pytest.raises(ValueError, match="what it says of its pixels' mean and std is damaged"):
        read_statistics(tmp_path / "odd.safetensors")
