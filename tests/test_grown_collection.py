"""A collection that grows, or whose photographs are elsewhere: only what must be done again is."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.collection.absent import is_absent_and_recorded
from pipeline.params.reader import load_params
from tests.conftest import ROOT, SMALL_RUN, change_params, clone_project, repro
from tests.processes import run, run_stage

NUM_PHOTOS = 30
GUIDE = (ROOT / "docs/your-own-images.md").read_text().splitlines()


def write_photos(photos: Path, numbers: range) -> None:
    """Pictures of three classes; each number is another one."""
    for number in numbers:
        path = photos / f"class {number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((50, 40), Image.Resampling.BICUBIC).save(path)


def own_photos(photos: Path) -> dict[str, object]:
    return {"dataset.name": "folder", "dataset.path": str(photos), "dataset.image_size": 16}


@pytest.fixture
def new_project(tmp_path: Path) -> Callable[[str], Path]:
    """Makes folders with code and params, in which a stage runs."""

    def make(name: str) -> Path:
        project = tmp_path / name
        project.mkdir()
        for room in ("stages", "pipeline"):
            (project / room).symlink_to(ROOT / room)
        shutil.copy(ROOT / "params.yaml", project)
        change_params(project / "params.yaml", own_photos(tmp_path / "photos"))
        return project

    return make


def fetch(project: Path) -> str:
    """Stage fetch, what it printed."""
    return run_stage("fetch", project).stdout


def contents(project: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (project / "data/images").iterdir()}


def test_of_a_collection_that_grew_the_new_images_alone_are_decoded(
    new_project: Callable[[str], Path], tmp_path: Path
) -> None:
    write_photos(tmp_path / "photos", range(NUM_PHOTOS))
    (tmp_path / "photos/class 0/no image.png").write_bytes(b"hello")
    project = new_project("grown")
    change_params(project / "params.yaml", {"dataset.max_rejected": 0.5})
    assert "decoded before" not in fetch(project)
    write_photos(tmp_path / "photos", range(NUM_PHOTOS, NUM_PHOTOS + 7))
    (tmp_path / "photos/class 1/1.png").unlink()
    assert f"{NUM_PHOTOS - 1} files were decoded before, and not again" in fetch(project)
    fresh = new_project("fresh")
    change_params(fresh / "params.yaml", {"dataset.max_rejected": 0.5})
    fetch(fresh)
    assert contents(project) == contents(fresh)


def flip_a_byte(project: Path) -> None:
    path = project / "data/images/train.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def note_another_decoder(project: Path) -> None:
    note = project / ".lookalike/decoded.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"decoder": "another"}))


def damage_the_note(project: Path) -> None:
    (project / ".lookalike/decoded.json").write_text("[")


def want_another_size(project: Path) -> None:
    change_params(project / "params.yaml", {"dataset.image_size": 24})


@pytest.mark.parametrize(
    "change",
    [flip_a_byte, note_another_decoder, damage_the_note, want_another_size],
    ids=lambda f: f.__name__,
)
def test_pixels_that_another_decoder_or_nobody_knows_made_are_not_taken_over(
    change: Callable[[Path], None], new_project: Callable[[str], Path], tmp_path: Path
) -> None:
    write_photos(tmp_path / "photos", range(NUM_PHOTOS))
    project = new_project("changed")
    fetch(project)
    change(project)
    assert "decoded before" not in fetch(project)
    fresh = new_project("fresh")
    shutil.copy(project / "params.yaml", fresh)
    fetch(fresh)
    assert contents(project) == contents(fresh)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of a person's own photographs beside it, the chain run to its end and committed."""
    around = tmp_path_factory.mktemp("shop")
    write_photos(around / "photos", range(NUM_PHOTOS))
    project = clone_project(around / "project")
    change_params(
        project / "params.yaml", SMALL_RUN | own_photos(around / "photos") | {"pretrain.batch_size": 8}
    )
    repro(project)
    commit(project)
    return project


def commit(project: Path) -> None:
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    run("git", *author, "commit", "--quiet", "--all", "--message", "run", cwd=project)


def follow(command: str, project: Path, *more: str) -> None:
    """Runs a line of the guide."""
    assert command in GUIDE
    run(*command.split(), *more, cwd=project)


def stages_run(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Names of the stages that DVC ran."""
    return [line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage '")]


@pytest.mark.slow
@pytest.mark.xdist_group("shop")
def test_new_photographs_are_found_by_the_encoder_that_is_kept(shop: Path) -> None:
    encoder = (shop / "data/encoder/encoder.onnx").read_bytes()
    write_photos(shop.parent / "photos", range(NUM_PHOTOS, NUM_PHOTOS + 5))
    follow("dvc freeze pretrain export", shop)
    done = run("dvc", "repro", cwd=shop)
    assert stages_run(done) == [
        "scan",
        "weights",
        "fetch",
        "finetune",
        "embed",
        "index",
        "evaluate",
        "report",
    ]
    assert f"{NUM_PHOTOS} files were decoded before, and not again" in done.stdout
    assert (shop / "data/encoder/encoder.onnx").read_bytes() == encoder
    assert "trained on another state of the collection: its views are left out" in done.stdout
    assert "views" not in json.loads((shop / "data/metrics/evaluate.json").read_text())["encoder"]
    newest = shop.parent / f"photos/class {(NUM_PHOTOS + 4) % 3}/{NUM_PHOTOS + 4}.png"
    found = run("lookalike", "query", str(newest), "-k", "1", "--json", cwd=shop)
    assert json.loads(found.stdout)[0]["neighbors"][0]["source"].endswith(f"/{NUM_PHOTOS + 4}.png")
    again = run("dvc", "repro", cwd=shop)
    assert stages_run(again) == ["scan", "weights"]
    commit(shop)


@pytest.mark.slow
@pytest.mark.xdist_group("shop")
def test_where_the_photographs_are_not_the_later_stages_run(shop: Path, tmp_path: Path) -> None:
    run("dvc", "remote", "add", "--default", "--force", "store", str(tmp_path / "store"), cwd=shop)
    commit(shop)
    run("dvc", "push", cwd=shop)
    clone = tmp_path / "clone"
    run("git", "clone", "--quiet", str(shop), str(clone), cwd=tmp_path)
    run("dvc", "pull", cwd=clone)
    (shop.parent / "photos").rename(shop.parent / "elsewhere")
    try:
        change_params(clone / "params.yaml", {"index.factory": "HNSW8"})
        done = run("dvc", "repro", "index", cwd=clone)
        assert stages_run(done) == ["scan", "index"]
        line = f"scan: {shop.parent / 'photos'} is not here or empty: what was read of it, in data, is kept"
        assert line in done.stdout
        change_params(clone / "params.yaml", {"dataset.path": str(shop.parent / "photoes")})
        refused = run("dvc", "repro", "index", cwd=clone, check=False)
        assert refused.returncode != 0
        assert f"{shop.parent / 'photoes'}: no such file or folder: check dataset.path" in refused.stderr
    finally:
        (shop.parent / "elsewhere").rename(shop.parent / "photos")


@pytest.mark.slow
@pytest.mark.xdist_group("shop")
def test_linked_outputs_stand_once_on_disk_and_what_nothing_uses_goes(shop: Path) -> None:
    images = shop / "data/images/train.npy"
    cache = shop / ".dvc/cache/files/md5"
    follow("dvc config cache.type reflink,hardlink,copy", shop)
    follow("dvc checkout --relink", shop)
    (kinds,) = [line for line in run("dvc", "doctor", cwd=shop).stdout.splitlines() if "Cache types:" in line]
    assert images.stat().st_nlink == (1 if "reflink" in kinds else 2)
    change_params(shop / "params.yaml", {"dataset.seed": 1, "index.factory": "Flat"})
    run("dvc", "repro", cwd=shop)
    objects = [path for path in cache.rglob("*") if path.is_file()]
    for path in objects:
        assert hashlib.md5(path.read_bytes()).hexdigest() == f"{path.parent.name}{path.name}".removesuffix(
            ".dir"
        )
    follow("dvc gc --workspace", shop, "--force")
    assert len([path for path in cache.rglob("*") if path.is_file()]) < len(objects)
    assert stages_run(run("dvc", "repro", cwd=shop)) == ["scan", "weights"]
    follow("dvc unfreeze pretrain export", shop)
    assert "frozen" not in (shop / "dvc.yaml").read_text()


def test_what_is_not_recorded_or_not_of_these_settings_is_not_kept(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    change_params(tmp_path / "params.yaml", own_photos(tmp_path / "photos"))
    params = load_params(tmp_path / "params.yaml").dataset
    source, lock = tmp_path / "source.json", tmp_path / "dvc.lock"
    source.write_text("{}\n")
    recorded = {
        "stages": {
            "fetch": {
                "deps": [{"path": source.as_posix(), "md5": "8a80554c91d9fca8acb82f023de02f11"}],
                "params": {"params.yaml": {"dataset": params.model_dump()}},
            }
        }
    }
    lock.write_text(json.dumps(recorded))  # JSON is YAML
    assert is_absent_and_recorded(params, source, lock)
    assert not is_absent_and_recorded(params.model_copy(update={"seed": 1}), source, lock)
    assert not is_absent_and_recorded(params.model_copy(update={"path": "~nosuchuser/x"}), source, lock)
    assert not is_absent_and_recorded(params.model_copy(update={"name": "mnist5k"}), source, lock)
    assert not is_absent_and_recorded(params, source, tmp_path / "no.lock")
    assert not is_absent_and_recorded(params, tmp_path / "missing.json", lock)
    source.write_text("{ }\n")
    assert not is_absent_and_recorded(params, source, lock)
    lock.write_text("stages: [")
    assert not is_absent_and_recorded(params, source, lock)
    lock.write_text(json.dumps(recorded))
    source.write_text("{}\n")
    (tmp_path / "photos").mkdir()  # a place to mount a disk, and no disk
    assert is_absent_and_recorded(params, source, lock)
    (tmp_path / "photos/a.txt").touch()
    assert not is_absent_and_recorded(params, source, lock)
