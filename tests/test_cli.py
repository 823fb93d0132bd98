"""The console script as a person uses it, with and without mistakes."""

import importlib.metadata
import json
import os
import re
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.artifacts import Artifacts
from pipeline.atomic import atomic_folder
from pipeline.cli import doctor
from tests.conftest import ROOT, change_params
from tests.processes import fails, files_of_at_most, obey_permissions, run, run_lookalike, run_stage

pytestmark = pytest.mark.slow


@pytest.fixture
def digit(small_chain: Path, tmp_path: Path) -> Path:
    """Test image 0 of the small run as a file of its own."""
    path = tmp_path / "digit.png"
    Image.fromarray(Artifacts(small_chain / "data").read_images("test")[0]).save(path)
    return path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_query_prints_a_table_whose_first_row_is_the_image_itself(small_chain: Path, digit: Path) -> None:
    lines = run_lookalike("query", str(digit), "-k", "3", cwd=small_chain).stdout.splitlines()
    assert lines[0].split() == ["rank", "score", "class", "id", "source"]
    first = Artifacts(small_chain / "data").read_manifest().iloc[4000]
    assert lines[1].split() == ["1", "1.0000", first["class_name"], "4000", first["source"]]
    assert len(lines) == 4


def test_query_prints_json_for_programs(small_chain: Path, digit: Path) -> None:
    printed = run_lookalike("query", str(digit), str(digit), "-k", "2", "--json", cwd=small_chain).stdout
    answers = json.loads(printed)
    assert [answer["query"] for answer in answers] == [str(digit)] * 2
    first = answers[0]["neighbors"][0]
    assert set(first) == {"rank", "score", "class_name", "id", "source", "split"}
    assert (first["rank"], first["id"], first["split"]) == (1, 4000, "test")
    assert first["score"] == pytest.approx(1, abs=1e-5)


def test_json_is_alone_on_stdout_whatever_a_library_prints(small_chain: Path, digit: Path) -> None:
    done = run_lookalike("query", str(digit), "--json", cwd=small_chain, before=chatty_onnxruntime)
    assert len(json.loads(done.stdout)[0]["neighbors"]) == 10
    assert "a word of Python" in done.stderr
    assert "a word of C" in done.stderr


def chatty_onnxruntime() -> None:
    """Before a command: the library prints when it opens a model, as CUDA's do."""
    import onnxruntime

    session = onnxruntime.InferenceSession

    def chat(*args: object, **options: object) -> object:
        print("a word of Python")
        os.write(1, b"a word of C\n")
        return session(*args, **options)

    onnxruntime.InferenceSession = chat


def test_query_draws_the_query_and_its_neighbours(small_chain: Path, digit: Path, tmp_path: Path) -> None:
    run_lookalike("query", str(digit), "-k", "4", "--gallery", str(tmp_path / "out.png"), cwd=small_chain)
    picture = np.asarray(Image.open(tmp_path / "out.png"))
    shown = np.asarray(Image.open(digit).resize((96, 96), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(picture[8:104, 8:104], shown)  # the query
    np.testing.assert_array_equal(picture[8:104, 120:216], shown)  # and itself as the nearest
    assert picture.shape[1] == 3 * 8 + 5 * 104


def test_a_search_imports_no_training_stack(small_chain: Path, digit: Path) -> None:
    program = (
        "import sys; sys.argv = ['lookalike', 'query', sys.argv[1], '--gallery', sys.argv[2]]\n"
        "from pipeline.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as left:\n    assert not left.code\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "assert 'onnxruntime' in loaded and 'faiss' in loaded\n"
        "stack = {'torch', 'torchvision', 'models', 'sklearn', 'pandas', 'jinja2', 'vl_convert'}\n"
        "assert not loaded & stack, loaded\n"
    )
    run("python", "-c", program, str(digit), str(digit.with_name("out.png")), cwd=small_chain)


def test_help_shows_an_example() -> None:
    assert "lookalike query photo.png" in run_lookalike("query", "--help", cwd=ROOT).stdout
    assert "query" in run_lookalike("--help", cwd=ROOT).stdout


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (None, "no such file"),
        (b"", "empty file"),
        (b"hello", "not an image of a format that is read (JPEG, PNG, WEBP, BMP, GIF, TIFF, AVIF, HEIF)"),
        (b"cut", "damaged image"),
    ],
)
def test_a_bad_query_file_is_one_line_and_prints_no_answer(
    small_chain: Path, digit: Path, tmp_path: Path, content: bytes | None, rule: str
) -> None:
    bad = tmp_path / "bad.png"
    if content is not None:
        bad.write_bytes(digit.read_bytes()[:120] if content == b"cut" else content)
    line = fails(2, "lookalike", "query", str(digit), str(bad), cwd=small_chain)
    assert line.startswith(f"{bad}: {rule}")


def test_a_jpeg_named_png_is_read_for_what_it_is(small_chain: Path, digit: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed.png"
    Image.open(digit).save(renamed, format="JPEG", quality=95)
    answer = json.loads(run_lookalike("query", str(renamed), "--json", cwd=small_chain).stdout)
    assert answer[0]["neighbors"][0]["id"] == 4000


def test_k_larger_than_the_index_is_one_line(small_chain: Path, digit: Path) -> None:
    line = fails(2, "lookalike", "query", str(digit), "-k", "5001", cwd=small_chain)
    assert line == "k is 5001, the index holds 5000 images: choose k from 1 to 5000"


def test_an_unknown_device_is_one_line(small_chain: Path, digit: Path) -> None:
    line = fails(2, "lookalike", "query", str(digit), "--device", "gpu", cwd=small_chain)
    assert line == "--device: 'gpu' is none of auto, cpu, cuda"


def test_an_index_of_another_encoder_is_one_line(chain_copy: Path, digit: Path) -> None:
    data = Artifacts(chain_copy / "data")
    shutil.copy(data.start_encoder, data.index / "encoder.onnx")
    line = fails(2, "lookalike", "query", str(digit), cwd=chain_copy)
    assert line.startswith("data/index/encoder.onnx: is ")
    assert line.endswith(
        "copy the whole folder to another name and rename it, or run 'dvc repro --force index'"
    )


def test_the_index_folder_answers_alone_wherever_it_is(
    small_chain: Path, digit: Path, tmp_path: Path
) -> None:
    expected = run_lookalike("query", str(digit), "--json", cwd=small_chain).stdout
    shutil.copytree(small_chain / "data/index", tmp_path / "alone")
    answered = run_lookalike("query", str(digit), "--json", "--index", "alone", cwd=tmp_path).stdout
    assert answered == expected


def test_a_folder_without_the_chains_outputs_says_what_to_run(tmp_path: Path, digit: Path) -> None:
    line = fails(2, "lookalike", "query", str(digit), cwd=tmp_path)
    assert line == "data/index/index.json: missing, stage 'index' makes it: run 'dvc repro index'"


@pytest.mark.parametrize(
    ("name", "rule"),
    [("out.xyz", "no picture format ends in '.xyz'"), ("no/out.png", "the folder no does not exist")],
)
def test_a_gallery_that_cannot_be_written_is_one_line(
    small_chain: Path, digit: Path, name: str, rule: str
) -> None:
    assert rule in fails(2, "lookalike", "query", str(digit), "--gallery", name, cwd=small_chain)


def test_no_permission_to_read_a_query_is_one_line(small_chain: Path, digit: Path) -> None:
    digit.chmod(0)
    line = fails(1, "lookalike", "query", str(digit), cwd=small_chain, before=obey_permissions)
    assert line.startswith(f"{digit}: no permission")


def test_no_permission_to_write_a_picture_leaves_the_old_one(
    small_chain: Path, digit: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "out.png").write_bytes(b"old")
    folder.chmod(0o555)
    command = ("lookalike", "query", str(digit), "--gallery", str(folder / "out.png"))
    line = fails(1, *command, cwd=small_chain, before=obey_permissions)
    assert "no permission" in line
    assert contents(folder) == {folder / "out.png": b"old"}


def test_a_full_disk_leaves_the_old_picture(small_chain: Path, digit: Path, tmp_path: Path) -> None:
    (tmp_path / "out.png").write_bytes(b"old")
    command = ("lookalike", "query", str(digit), "--gallery", str(tmp_path / "out.png"))
    line = fails(1, *command, cwd=small_chain, before=files_of_at_most(1000))
    assert "larger than a file may be here" in line
    assert (tmp_path / "out.png").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digit.png", "out.png"]


@pytest.mark.parametrize("stage", ["fetch", "embed", "index"])
def test_a_stage_on_a_full_disk_leaves_every_output_whole(chain_copy: Path, stage: str) -> None:
    before = contents(chain_copy / "data")
    done = run_stage(stage, chain_copy, check=False, before=files_of_at_most(10_000))
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert contents(chain_copy / "data") == before


@pytest.mark.parametrize("stage", ["fetch", "embed", "index", "evaluate", "report"])
def test_a_stage_that_may_not_write_leaves_every_output_whole(chain_copy: Path, stage: str) -> None:
    little = {"evaluate.linear.max_iterations": 1, "evaluate.linear.C": [1.0]}
    change_params(chain_copy / "params.yaml", little)
    before = contents(chain_copy / "data")
    for folder in (chain_copy / "data", chain_copy / "data/metrics"):
        folder.chmod(0o555)
    done = run_stage(stage, chain_copy, check=False, before=obey_permissions)
    assert done.returncode == 1, done.stderr
    assert "no permission" in done.stderr.splitlines()[-1]
    assert contents(chain_copy / "data") == before


@pytest.mark.parametrize(
    ("stage", "missing", "made_by"),
    [
        ("pretrain", "images/train.npy", "fetch"),
        ("export", "pretrain/backbone.safetensors", "pretrain"),
        ("embed", "encoder/encoder.onnx", "export"),
        ("index", "embeddings/train.npy", "embed"),
        ("evaluate", "images/manifest.parquet", "fetch"),
        ("report", "evaluation/outcomes.parquet", "evaluate"),
    ],
)
def test_a_stage_without_its_input_names_the_stage_that_makes_it(
    chain_copy: Path, stage: str, missing: str, made_by: str
) -> None:
    (chain_copy / "data" / missing).unlink()
    line = fails(2, stage, cwd=chain_copy)
    assert line == f"data/{missing}: missing, stage '{made_by}' makes it: run 'dvc repro {made_by}'"


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("python -m stages.pretrain", r"error: params\.yaml: pretrain\.epochs: -1 should be .*\n"),
        ("lookalike query nothing.png", r"error: nothing\.png: no such file\n"),
    ],
)
def test_a_mistake_is_one_line_of_the_command_as_it_is_typed(
    chain_copy: Path, command: str, line: str
) -> None:
    """Of a new process, whose imports say nothing either."""
    change_params(chain_copy / "params.yaml", {"pretrain.epochs": -1})
    done = run(*command.split(), cwd=chain_copy, check=False)
    assert done.returncode == 2
    assert re.fullmatch(line, done.stderr)
    assert done.stdout == ""


@pytest.mark.parametrize(
    "stage", ["scan", "fetch", "pretrain", "export", "finetune", "embed", "index", "evaluate", "report"]
)
def test_a_wrong_param_stops_every_stage_before_any_work(chain_copy: Path, stage: str) -> None:
    before = contents(chain_copy / "data")
    text = (chain_copy / "params.yaml").read_text()
    (chain_copy / "params.yaml").write_text(text.replace("method: simclr", "method: simcrl"))
    line = fails(2, stage, cwd=chain_copy)
    assert line == "params.yaml: pretrain.method: 'simcrl' is none of simclr, simsiam, nnclr"
    assert contents(chain_copy / "data") == before


def test_the_version_is_the_packages() -> None:
    assert run_lookalike("--version", cwd=ROOT).stdout == f"{importlib.metadata.version('lookalike')}\n"


def test_a_recipe_says_that_a_stage_is_under_way(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    with atomic_folder(tmp_path / "data/pretrain"):
        printed = run_lookalike("recipe", "cifar10", cwd=tmp_path).stdout
        assert f"data/pretrain is being written by process {os.getpid()}, with the params as they" in printed
        assert "under way" not in run_lookalike("recipe", "cifar10", cwd=tmp_path).stdout  # nothing changed
    assert "process" not in run_lookalike("recipe", "mnist5k", cwd=tmp_path).stdout


def test_the_doctor_says_what_there_is(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    kept = tmp_path / ".lookalike/checkpoints/0a1b-cpu-float32-2-threads"
    kept.mkdir(parents=True)
    (kept / "0000000001-ab.pt").write_bytes(bytes(1_500_000))
    with atomic_folder(tmp_path / "data/index"):
        printed = run_lookalike("doctor", cwd=tmp_path, before=of_enough_room).stdout
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in printed.splitlines() if "  " in line)
    assert lines["torch"] == torch.__version__.partition("+")[0]
    assert lines["faiss-cpu"] == faiss.__version__
    assert lines["onnxruntime runs on"].endswith("CPUExecutionProvider")
    assert lines["device"].partition(" ")[0] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert lines["params.yaml"] == "well-formed"
    assert lines["under way"] == f"data/index is being written by process {os.getpid()}"
    assert lines["checkpoints"] == f"{kept.name}: 1.5 MB, stopped less than a minute ago"


def test_the_doctor_names_what_is_wrong_and_what_mends_it(tmp_path: Path) -> None:
    params = (ROOT / "params.yaml").read_text().replace("method: simclr ", "method: simcrl ")
    (tmp_path / "params.yaml").write_text(params)
    done = run_lookalike("doctor", cwd=tmp_path, check=False, before=too_many_threads)
    assert done.returncode == 1
    assert "problem: params.yaml: pretrain.method: 'simcrl' is none of simclr" in done.stdout
    assert "problem: OMP_NUM_THREADS asks for more threads than there are cores" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("problems: ")


def test_the_doctor_needs_no_project(tmp_path: Path) -> None:
    assert "none in this folder" in run_lookalike("doctor", cwd=tmp_path, check=False).stdout


@pytest.mark.parametrize(("package", "of"), [("torch", "device"), ("onnxruntime", "onnxruntime runs on")])
def test_the_doctor_says_what_cannot_be_loaded(tmp_path: Path, package: str, of: str) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise ImportError('no such symbol')")
    done = run("env", f"PYTHONPATH={tmp_path}", "lookalike", "doctor", cwd=tmp_path, check=False)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    (row,) = [row for row, line in enumerate(lines) if line.startswith(f"{of}  ")]
    assert lines[row].endswith("  cannot be asked")
    assert lines[row + 1].strip() == (
        "problem: no such symbol: install it: pip install 'lookalike[train]', or 'make install' in a clone"
    )
    assert done.stderr == ""


def test_a_name_that_is_no_utf8_is_printed_with_escapes(
    small_chain: Path, digit: Path, tmp_path: Path
) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    shutil.copy(digit, odd)
    printed = run_lookalike("query", str(digit), str(odd), "-k", "1", cwd=small_chain).stdout
    assert f"{tmp_path}/caf\\xe9.png:\n" in printed


def test_closed_output_is_one_line(small_chain: Path, digit: Path) -> None:
    done = run("bash", "-c", f"lookalike query '{digit}' >&-", cwd=small_chain, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: standard output is closed\n"


def of_enough_room() -> None:
    os.environ.pop("OMP_NUM_THREADS", None)
    doctor._ENOUGH_DISK = 0  # whatever this machine's disk holds


def too_many_threads() -> None:
    os.environ["OMP_NUM_THREADS"] = "1000"
