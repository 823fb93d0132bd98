"""A person's own photographs through the whole chain: 224 px, no classes, experiments, a shared cache."""

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from pipeline.artifacts import Artifacts
from pipeline.encoder.runtime import Encoder
from pipeline.evaluation.coverage import PROTOCOLS
from tests.conftest import ROOT, SMALL_RUN, change_params, clone_project
from tests.processes import run, run_lookalike, run_stage

pytestmark = pytest.mark.slow

NUM_EACH = 40
STAGES = ("fetch", "weights", "pretrain", "export", "finetune", "embed", "index", "evaluate")
SMALL = {
    "evaluate.linear.few_label_seeds": [0, 1],
    "evaluate.linear.max_iterations": 20,
    "report.map_images": 500,
}


GUIDE = [
    line
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / "docs/your-own-images.md").read_text(), re.DOTALL)
    for line in block.splitlines()
]
INSTALLATION = ("make install", "source .venv/bin/activate")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with photographs: cuttings of the two that scikit-learn ships, as large as ImageNet's."""
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for name, photograph in zip(("palace", "flower"), load_sample_images().images, strict=True):
        (home / "photos" / name).mkdir(parents=True)
        for number in range(NUM_EACH):
            height, width = rng.integers(200, 400, 2)
            top = rng.integers(0, photograph.shape[0] - height)
            left = rng.integers(0, photograph.shape[1] - width)
            cutting = Image.fromarray(photograph[top : top + height, left : left + width])
            shape = (375, 500) if height > width else (500, 375)
            cutting.resize(shape).save(home / "photos" / name / f"{number:02d}.jpg")
    return home


@pytest.fixture(scope="module")
def photographs(home: Path) -> Path:
    return home / "photos"


def follow(command: str, home: Path, cwd: Path) -> str:
    """Runs a command of the guide in a shell, as somebody of this home; returns what it printed."""
    return run("env", f"HOME={home}", "bash", "-c", command, cwd=cwd).stdout


@pytest.fixture(scope="module")
def chain(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which the guide was followed up to the picture of neighbours, with small params."""
    clone = clone_project(tmp_path_factory.mktemp("chain"))
    small = "".join(f" -S '{key}={value}'" for key, value in SMALL.items())
    walk = GUIDE[: [command.split()[:2] for command in GUIDE].index(["lookalike", "query"]) + 1]
    assert len(walk) == 5
    for command in walk:
        if command.startswith("lookalike recipe"):
            follow(command + small, home, clone)
        elif command not in INSTALLATION:
            follow(command, home, clone)
    run("git", "config", "user.name", "test", cwd=clone)
    run("git", "config", "user.email", "test@localhost", cwd=clone)
    run("git", "add", "--all", cwd=clone)
    run("git", "commit", "--quiet", "--message", "my photographs", cwd=clone)
    return clone


def test_the_guide_ends_in_a_picture_of_neighbours(chain: Path) -> None:
    with Image.open(chain / "neighbours.png") as picture:
        assert picture.width > 10 * 96  # the query and ten neighbours


@pytest.mark.parametrize("command", [command for command in GUIDE if command.startswith("lookalike recipe")])
def test_a_recipe_of_the_guide_applies(command: str, home: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    assert follow(command, home, tmp_path).endswith("next: dvc repro\n")


def test_photographs_of_224_px_go_from_a_folder_to_their_neighbours(chain: Path, photographs: Path) -> None:
    data = Artifacts(chain / "data")
    assert data.read_images("train").shape == (2 * NUM_EACH * 4 // 5, 224, 224, 3)
    assert data.read_images("test").shape == (2 * NUM_EACH // 5, 224, 224, 3)
    assert data.read_collection()["class_names"] == ["flower", "palace"]
    picture = photographs / "palace/07.jpg"
    found = json.loads(run("lookalike", "query", str(picture), "-k", "3", "--json", cwd=chain).stdout)
    first = found[0]["neighbors"][0]
    # the same pixels by the same way: the very same embedding
    assert (first["source"], first["class_name"]) == ("palace/07.jpg", "palace")
    assert first["score"] == pytest.approx(1, abs=1e-5)
    scores = json.loads(data.metrics("evaluate").read_text())
    assert scores["encoder"]["knn"]["top1"] == 1.0  # of two classes, each cut out of one picture
    assert set(scores["encoder"]) >= {"knn", "linear", "retrieval", "spread"}


def test_only_the_stages_that_a_changed_file_touches_run_again(
    chain: Path, photographs: Path, home: Path
) -> None:
    def status() -> dict[str, Any]:
        follow("python -m stages.scan", home, chain)
        return dict(json.loads(run("dvc", "status", "--json", cwd=chain).stdout))

    before = status()
    assert set(before) == {"scan", "weights"}  # they always look
    picture = photographs / "palace/00.jpg"
    content = picture.read_bytes()
    try:
        picture.touch()
        assert status() == before
        picture.unlink()
        assert {"data/source.json": "modified"} in [
            change for changes in status()["fetch"] for change in changes.values()
        ]
    finally:
        picture.write_bytes(content)
    assert status() == before


def test_an_experiment_on_a_folder_without_classes_runs_and_says_what_it_leaves_out(
    chain: Path, photographs: Path
) -> None:
    done = run(
        *("dvc", "exp", "run", "--name", "flat"),
        *("-S", "dataset.name=folder", "-S", f"dataset.path={photographs / 'palace'}"),
        *("-S", "dataset.image_size=96"),
        cwd=chain,
    )
    try:
        assert "no classes: all images are for training" in done.stdout
        assert "no labels to score with" in done.stdout
        data = Artifacts(chain / "data")
        assert data.splits() == ["train"]
        assert set(data.read_manifest()["label"]) == {-1}
        scores = json.loads(data.metrics("evaluate").read_text())
        assert set(scores.pop("left_out")) == set(PROTOCOLS)
        assert scores.pop("findings")["label"] == 0
        assert {subject: set(of_subject) for subject, of_subject in scores.items()} == {
            "encoder": {"spread", "views", "hubness"},
            "start": {"spread", "views"},
            "pixels": {"spread", "views"},
        }
        assert "knn_top1" not in json.loads(data.metrics("pretrain").read_text())
        table = run("lookalike", "query", str(photographs / "palace/07.jpg"), "-k", "1", cwd=chain).stdout
        assert table.splitlines()[1].split() == ["1", "1.0000", "-", "7", "07.jpg"]
        run("dvc", "plots", "show", "--out", "plots", cwd=chain)
    finally:
        run("git", "checkout", "--quiet", ".", cwd=chain)
        run("dvc", "checkout", "--quiet", cwd=chain)
    shown = csv.DictReader(io.StringIO(run("dvc", "exp", "show", "--csv", cwd=chain).stdout))
    sizes = {row["Experiment"]: (row["dataset.image_size"], row["encoder.knn.top1"]) for row in shown}
    assert sizes["flat"] == ("96", "")
    assert sizes[""][0] == "224"
    assert sizes[""][1] != ""


@pytest.mark.xdist_group("chain")  # which has the photographs
def test_unlabelled_images_are_learned_from_and_searched_and_never_scored_on(
    photographs: Path, tmp_path: Path
) -> None:
    for name in ("palace", "flower"):
        for number, picture in enumerate(sorted((photographs / name).iterdir())):
            place = ("train", "test", "unlabelled", "unlabelled")[number % 4]
            folder = tmp_path / "photos" / place / ("" if place == "unlabelled" else name)
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, folder / f"{name}{number}.jpg")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    small = {key: value for key, value in SMALL_RUN.items() if key != "pretrain.backbone.width"}
    own = {"dataset.name": "folder", "dataset.path": "photos", "pretrain.batch_size": 32}
    change_params(tmp_path / "params.yaml", small | own)
    printed = {stage: run_stage(stage, tmp_path).stdout for stage in STAGES}
    data = Artifacts(tmp_path / "data")
    assert data.read_collection()["num_images"] == {"train": 20, "test": 20, "unlabelled": 40}
    # 60 images to learn from, of which 2 labelled ones are held out: a batch of 32 there is, with the
    # 20 labelled ones alone there would be none
    assert re.search(r"^ +1/1 ", printed["pretrain"], re.MULTILINE)
    manifest = data.read_manifest()
    assert set(manifest.query("split == 'unlabelled'")["label"]) == {-1}
    assert len(data.read_embeddings("unlabelled")) == 40
    metadata = Encoder.open(data.encoder, "cpu").metadata
    assert metadata["width"] == 16  # that of the paper, where params leave it empty
    picture = tmp_path / "photos/unlabelled/flower2.jpg"
    found = json.loads(run_lookalike("query", str(picture), "-k", "1", "--json", cwd=tmp_path).stdout)
    assert found[0]["neighbors"][0]["source"] == "unlabelled/flower2.jpg"
    assert "knn" in json.loads(data.metrics("evaluate").read_text())["encoder"]


def test_the_experiments_of_the_guide_run(chain: Path, home: Path) -> None:
    commands = [command for command in GUIDE if command.startswith("dvc exp")]
    assert len(commands) == 4
    printed = [follow(command, home, chain) for command in commands]
    rows = list(csv.DictReader(io.StringIO(printed[-1])))
    recalls = {row["index.target_recall"] for row in rows if row["State"] == "Success"}
    assert recalls == {"0.9", "0.99"}
    assert {row["dataset.path"] for row in rows if row["State"] == "Success"} == {str(home / "photos")}


def test_a_second_clone_pulls_and_queries_without_training(
    chain: Path, photographs: Path, home: Path, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    follow("dvc remote add --default store ~/lookalike-store", home, chain)
    follow("dvc push", home, chain)
    assert {"dvc remote add --default store ~/lookalike-store", "dvc push"} <= set(GUIDE)
    run("git", "add", ".dvc/config", cwd=chain)
    run("git", "commit", "--quiet", "--message", "a remote", cwd=chain)
    run("git", "clone", "--quiet", str(chain), str(second), cwd=tmp_path)
    run("dvc", "pull", cwd=second)
    query = ("lookalike", "query", str(photographs / "flower/03.jpg"), "-k", "5", "--json")
    assert run(*query, cwd=second).stdout == run(*query, cwd=chain).stdout
    shutil.rmtree(second)
