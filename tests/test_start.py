"""What a run begins with: a file, an installed package, a hub on loopback; and what the record says of it."""

import hashlib
import json
import math
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from safetensors.torch import load_file, save

from models.published_weights import published_weights
from pipeline.artifacts import UNLABELLED, Artifacts, read_json
from pipeline.params.reader import check_params, parse_yaml
from pipeline.recipes import with_recipe
from pipeline.training.loop import train
from tests.conftest import ROOT, change_params
from tests.processes import fails, run, run_stage

pytestmark = pytest.mark.slow


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def begun(small_chain: Path, tmp_path: Path) -> Path:
    """The images of the small run, and params that take the start of the small network as it is."""
    shutil.copytree(small_chain / "data/images", tmp_path / "data/images")
    shutil.copy(small_chain / "params.yaml", tmp_path)
    change_params(tmp_path / "params.yaml", {"pretrain.epochs": 0})
    return tmp_path


def begin_with(project: Path, weights: Path | str) -> None:
    change_params(project / "params.yaml", {"pretrain.backbone.weights": str(weights)})


def begin_with_published(project: Path, name: str) -> None:
    """A network of timm, which has a width of its own."""
    backbone = parse_yaml((ROOT / "params.yaml").read_text(), "params.yaml")["pretrain"]["backbone"]
    change_params(
        project / "params.yaml", {"pretrain.backbone": backbone | {"name": name, "pretrained": True}}
    )


def card(encoder: Path) -> dict[str, object]:
    """The metadata of an ONNX file."""
    session = onnxruntime.InferenceSession(encoder, providers=["CPUExecutionProvider"])
    return {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}


def test_the_start_of_a_file_goes_through_the_chain_as_it_is(begun: Path, small_chain: Path) -> None:
    """As a person brings the encoder of an earlier run: the same weights, the same encoder."""
    earlier = small_chain / "data/pretrain/backbone.safetensors"
    begin_with(begun, earlier)
    for stage in ("weights", "pretrain", "export"):
        run_stage(stage, begun)
    data = Artifacts(begun / "data")
    assert read_json(data.weights, "weights")["sha256"] == sha256(earlier.read_bytes())
    expected = load_file(earlier)
    for path in (data.backbone, data.start_backbone):
        assert all(torch.equal(value, expected[name]) for name, value in load_file(path).items())
    assert read_json(data.metrics("pretrain"), "pretrain") == {"epoch": 0, "lr": 0.0, "kept_epoch": 0}
    assert data.encoder.read_bytes() == data.start_encoder.read_bytes()
    found, before = card(data.encoder), card(small_chain / "data/encoder/encoder.onnx")
    assert found["weights_sha256"] == sha256(earlier.read_bytes())
    assert before["weights_sha256"] is None
    assert (found["mean"], found["std"]) == (before["mean"], before["std"])
    assert str(earlier) not in data.encoder.read_bytes().decode("latin-1")


def test_the_same_weights_elsewhere_are_the_same_run(begun: Path, small_chain: Path, tmp_path: Path) -> None:
    written = []
    for name in ("one.safetensors", "other.safetensors"):
        shutil.copy(small_chain / "data/pretrain/backbone.safetensors", tmp_path / name)
        begin_with(begun, tmp_path / name)
        for stage in ("weights", "pretrain"):
            run_stage(stage, begun)
        written.append(Artifacts(begun / "data").backbone.read_bytes())
    assert written[0] == written[1]


def test_other_weights_under_the_same_name_are_noticed(
    begun: Path, tmp_path: Path, small_chain: Path
) -> None:
    weights = tmp_path / "weights.safetensors"
    shutil.copy(small_chain / "data/pretrain/backbone.safetensors", weights)
    begin_with(begun, weights)
    run_stage("weights", begun)
    shutil.copy(small_chain / "data/pretrain/start.safetensors", weights)
    line = fails(2, "pretrain", cwd=begun)
    assert line.startswith("data/weights.json: the weights that the run begins with were ")
    assert line.endswith(" now: run 'dvc repro'")


@pytest.mark.parametrize(
    ("weights", "line"),
    [
        ("missing.pth", "params.yaml: pretrain.backbone.weights: missing.pth: no such file: give a file of"),
        ("data.bin", "params.yaml: pretrain.backbone.weights: data.bin: a folder: give a file of weights"),
        ("~nosuchuser/x.pth", "params.yaml: pretrain.backbone.weights: ~nosuchuser/x.pth: "),
    ],
)
def test_weights_that_are_not_there_are_one_line(begun: Path, weights: str, line: str) -> None:
    (begun / "data.bin").mkdir()
    begin_with(begun, weights)
    assert fails(2, "weights", cwd=begun).startswith(line)


def test_an_unknown_network_is_told_as_unknown(begun: Path) -> None:
    begin_with_published(begun, "timm:resnet19")
    assert "has no such model; did you mean timm:resnet1" in fails(2, "weights", cwd=begun)


def test_another_networks_weights_are_one_line(begun: Path) -> None:
    begin_with(begun, published_weights("efficientnet_lite0"))
    run_stage("weights", begun)
    done = run_stage("pretrain", begun, check=False)
    assert done.returncode == 2
    assert "not weights of this network: it has no stem.0.weight, " in done.stderr
    assert "no place for _conv_stem.weight, " in done.stderr


def test_where_the_weights_are_gone_what_was_trained_from_them_stays(
    begun: Path, small_chain: Path, tmp_path: Path
) -> None:
    """As in a clone on another machine: later stages run there."""
    weights = tmp_path / "weights.safetensors"
    shutil.copy(small_chain / "data/pretrain/backbone.safetensors", weights)
    begin_with(begun, weights)
    shutil.copy(small_chain / "dvc.yaml", begun)
    run("git", "init", "--quiet", cwd=begun)
    run("dvc", "init", "--quiet", cwd=begun)
    run("dvc", "repro", "--quiet", "pretrain", cwd=begun)
    before = (begun / "data/weights.json").read_bytes()
    weights.unlink()
    printed = run("dvc", "repro", "export", cwd=begun).stdout
    assert "weights: not here, and what was trained from them is kept as dvc.lock has it" in printed
    assert "Running stage 'pretrain'" not in printed
    assert (begun / "data/weights.json").read_bytes() == before
    change_params(begun / "params.yaml", {"pretrain.seed": 1})
    assert "no such file" in run("dvc", "repro", "export", cwd=begun, check=False).stderr


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks for, a file of one repository, by the names of its addresses and headers."""

    content = b""
    asked: tuple[list[str], ...] = ([],)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        self.asked[0].append(f"{self.command} {self.path}")
        repository, _, name = self.path.partition("/resolve/")
        if repository != "/timm/test_resnet.r160_in1k" or not name.endswith("/model.safetensors"):
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{sha256(self.content)}"')
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        if with_body:
            self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def hub() -> Iterator[str]:
    """The address of a hub that has the weights of one model of timm."""
    torch.manual_seed(5)
    Hub.content = save(timm.create_model("test_resnet", num_classes=1000).state_dict())
    Hub.asked[0].clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_published_weights_come_from_a_hub_once_and_then_from_its_cache(
    begun: Path, hub: str, tmp_path: Path
) -> None:
    begin_with_published(begun, "timm:test_resnet")
    environment = (f"HF_HOME={tmp_path / 'hf'}", f"HF_ENDPOINT={hub}", "NO_PROXY=*", "HF_HUB_OFFLINE=0")
    run("env", *environment, "python", "-m", "stages.weights", cwd=begun)
    later = "from stages import export, pretrain, weights; weights.main(); pretrain.main(); export.main()"
    run("env", *environment, "python", "-c", later, cwd=begun)
    gets = [line for line in Hub.asked[0] if line.startswith("GET") and line.endswith(".safetensors")]
    assert len(gets) == 1
    data = Artifacts(begun / "data")
    assert read_json(data.weights, "weights")["sha256"] == sha256(Hub.content)
    found = card(data.encoder)
    assert found["weights_sha256"] == sha256(Hub.content)
    assert found["mean"] == found["std"] == [0.5, 0.5, 0.5]  # timm's notes of test_resnet.r160_in1k
    torch.manual_seed(5)
    expected = timm.create_model("test_resnet", num_classes=1000).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in load_file(data.backbone).items())


@pytest.mark.parametrize(
    ("recipe", "network", "mean"),
    [
        ("simclr-resnet18-224", "resnet18", (0.485, 0.456, 0.406)),  # of ImageNet, as timm notes
        ("simclr-resnet50-cifar10", "resnet50", (0.5, 0.5, 0.5)),  # as its normalization has it
    ],
)
def test_recipes_of_published_networks_learn_from_a_file_of_their_weights(
    recipe: str, network: str, mean: tuple[float, ...], tmp_path: Path
) -> None:
    torch.manual_seed(5)
    published = timm.create_model(network, num_classes=1000).state_dict()
    torch.save(published, tmp_path / "published.pth")
    settings = (
        "dataset.name=folder",
        "dataset.path=photos",
        "pretrain.backbone.pretrained=false",
        f"pretrain.backbone.weights={tmp_path / 'published.pth'}",
        "pretrain.epochs=1",
        "pretrain.batch_size=8",
        "pretrain.optimizer.warmup_epochs=0",
    )
    text = with_recipe((ROOT / "params.yaml").read_text(), recipe, settings)
    params = check_params(parse_yaml(text, "params.yaml"), "params.yaml")
    size = params.dataset.image_size
    images = np.random.default_rng(0).integers(0, 256, (16, size, size, 3), dtype=np.uint8)
    run = train(images, np.full(16, UNLABELLED), params.pretrain)
    of_file = {name: value for name, value in published.items() if not name.startswith("fc.")}
    assert run.start.keys() == of_file.keys()
    assert all(torch.equal(value, of_file[name]) for name, value in run.start.items())
    assert math.isfinite(run.history[-1]["loss"])
    assert any(not torch.equal(run.backbone[name], run.start[name]) for name in run.start)
    assert run.statistics.mean == mean
