"""`lookalike index build`: an index folder of embeddings in files, and one that has no encoder."""

import fcntl
import functools
import hashlib
import inspect
import json
import os
import pty
import resource
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pandas as pd
import pyarrow
import pyarrow.compute
import pyarrow.parquet
import pytest
from numpy.typing import NDArray
from ruamel.yaml import YAML

from benchmarks.index.changes import write_encoder
from benchmarks.index.points import clustered
from pipeline import Encoder, ImageIndex
from pipeline.artifacts import sha256_of
from pipeline.cli.index.building import build
from pipeline.errors import UserError
from pipeline.params.index import Index
from pipeline.project.new import TEMPLATE
from pipeline.search.building.index import make_index
from pipeline.search.files import faiss_file
from pipeline.search.files.faiss_file import read_faiss
from pipeline.search.from_arrays.folder import Given, build_folder
from pipeline.search.from_arrays.vectors import VectorFile
from pipeline.search.index_folder import IndexFolder
from tests.conftest import ROOT
from tests.processes import fails, run_lookalike
from tests.serving import serving
from tests.tiny_index import write_photo

COUNT, DIM, SIZE = 900, 12, 16
EXACT = Index(factory="Flat", memory_gib=1, target_recall=0.9, num_queries=90, seed=0, thumbnail_size=0)
VECTORS = clustered(COUNT, DIM, seed=3, num_clusters=9)


def nearest(queries: NDArray[np.floating], vectors: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """By brute force, in float64, whatever the lengths."""
    queries, vectors = (
        rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        for rows in (queries, vectors)
    )
    return np.argsort(-queries @ vectors.T, axis=1, kind="stable")[:, :k]


def ids_of(index: ImageIndex, query: Any, k: int) -> list[list[int]]:
    return [[neighbor.id for neighbor in answer] for answer in index.answers(query, k)]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A place with two files of embeddings."""
    np.save(tmp_path / "train.npy", VECTORS[:600])
    np.save(tmp_path / "test.npy", VECTORS[600:])
    return tmp_path


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index folder without an encoder, beside a photograph."""
    folder = tmp_path_factory.mktemp("alone")
    np.save(folder / "all.npy", VECTORS)
    build_folder(Given([folder / "all.npy"]), folder / "index", EXACT)
    write_photo(folder, 1)
    return folder


def test_the_command_makes_what_stage_index_makes_of_the_same_embeddings(here: Path) -> None:
    options = ("--factory", "IVF16,Flat", "--target-recall", "0.8", "--num-queries", "90", "--seed", "4")
    done = run_lookalike("index", "build", "train.npy", "test.npy", "-o", "made", *options, cwd=here)
    assert done.stderr == ""  # no terminal, no bar
    params = EXACT.model_copy(update={"factory": "IVF16,Flat", "target_recall": 0.8, "seed": 4})
    made = make_index([VECTORS[:600], VECTORS[600:]], params)
    content = (here / "made/images.faiss").read_bytes()
    assert content[:-32] == faiss.serialize_index(made.index).tobytes()
    card = IndexFolder(here / "made").read_card()
    assert (card.factory, card.search_parameters) == ("IVF16,Flat", made.built.search_parameters)
    assert (card.encoder_sha256, card.manifest_sha256, card.thumbnail_size) == (None, None, 0)
    assert card.recall_at_10_low == made.built.recall_at_10_low
    recall = f"{card.recall_at_10:.4f} ({card.recall_at_10_low:.4f} to {card.recall_at_10_high:.4f})"
    line = f"made: 900 vectors of 12 dimensions, IVF16,Flat, recall@10 {recall}\n"
    assert done.stdout.startswith(line)
    assert (len(done.stdout) > len(line)) == (card.recall_at_10_low < 0.8)
    index = ImageIndex.open(here / "made")
    assert index.rows(599, 2) == [
        {"id": 599, "split": "train", "class_name": None, "source": "train.npy:599"},
        {"id": 600, "split": "test", "class_name": None, "source": "test.npy:0"},
    ]
    assert {path.name for path in (here / "made").iterdir()} == {
        *("images.faiss", "index.json", "catalog.parquet", "recall.tsv")
    }
    before = sha256_of(here / "made/index.json")
    run_lookalike("index", "build", "train.npy", "test.npy", "-o", "made", *options, "--force", cwd=here)
    assert sha256_of(here / "made/index.json") == before  # which names every other


def test_an_unlikely_target_is_said_not_to_be_reached(here: Path) -> None:
    options = ("-o", "made", "--factory", "IVF16,SQ4")
    done = run_lookalike("index", "build", "train.npy", *options, cwd=here)
    assert done.stdout.splitlines()[1].startswith("--target-recall: 0.99 is not reached for sure: choose a ")


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize("factor", [1.0, 3.0, 1e-4])
def test_rows_of_any_kind_and_length_are_searched_by_their_cosine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str, factor: float
) -> None:
    given = (np.asfortranarray(VECTORS) * factor).astype(dtype)
    np.save(tmp_path / "all.npy", given)
    build_folder(Given([tmp_path / "all.npy"]), tmp_path / "index", EXACT)
    index = ImageIndex.open(tmp_path / "index")
    queries = clustered(40, DIM, seed=8, num_clusters=9)
    assert ids_of(index, queries, 5) == nearest(queries, given, 5).tolist()
    told = capsys.readouterr().err
    assert told == (
        ""
        if factor == 1.0
        else f"{tmp_path}/all.npy: 900 of 900 rows are not of length 1 and are made so: the score is "
        "the cosine similarity\n"
    )


def test_numbers_near_the_ends_of_their_range_have_a_direction(tmp_path: Path) -> None:
    for dtype, factors in (("f4", (1e38, 1e-40)), ("f8", (1e300, 1e-300))):
        given = VECTORS.astype(dtype) * np.where(np.arange(COUNT) % 2, *factors)[:, None].astype(dtype)
        np.save(tmp_path / "all.npy", given)
        file = VectorFile(tmp_path / "all.npy")
        assert file.check() == COUNT
        np.testing.assert_allclose(file[0:COUNT], VECTORS, atol=1e-4)


def test_what_has_length_1_is_not_touched(here: Path) -> None:
    file = VectorFile(here / "train.npy")
    checked = VectorFile(here / "train.npy")
    assert checked.check() == 0
    rows = np.array([5, 0, 599])
    for each in (file, checked):
        np.testing.assert_array_equal(each[rows], VECTORS[rows])
        np.testing.assert_array_equal(each[590:700], VECTORS[590:600])


def damaged(row: int, value: float) -> NDArray[np.float32]:
    vectors = VECTORS.copy()
    vectors[row, 3] = value
    return vectors


def header(shape: str) -> bytes:
    """Of a .npy file, and no more."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


BAD: dict[str, tuple[bytes | NDArray[Any], str]] = {
    "of_whole_numbers": (
        np.zeros((5, DIM), dtype=np.int64),
        "holds int64: embeddings are float16, float32 or",
    ),
    "of_one_dimension": (VECTORS[0], r"is \[12\]: embeddings are \[N, D\]"),
    "of_pixels": (np.zeros((2, 4, 4), dtype=np.float32), r"is \[2, 4, 4\]"),
    "of_no_columns": (np.zeros((3, 0), dtype=np.float32), r"is \[3, 0\]"),
    "of_no_rows": (VECTORS[:0], "has no rows"),
    "of_others": (VECTORS[:, :5], "of 5 dimensions, those of .*train.npy have 12"),
    "with_nan": (damaged(700, np.nan), "row 700 is not finite"),
    "with_infinity": (damaged(3, -np.inf), "row 3 is not finite"),
    "with_zero": (VECTORS * (np.arange(COUNT) != 899)[:, None], "row 899 is zero, and has no direction"),
    "of_objects": (np.array([["a", 1]], dtype=object), "not a whole .npy array"),
    "text": (b"1.0, 2.0\n", "not a whole .npy array"),
    "empty": (b"", "not a whole .npy array"),
    "cut": (header("(100, 12)") + bytes(400), "not a whole .npy array"),
    "endless": (header("(4611686018427387904, 12)"), "not a whole .npy array"),
    "negative": (header("(-1, 12)"), "not a whole .npy array"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_embeddings_is_refused_by_name(here: Path, name: str) -> None:
    content, expected = BAD[name]
    path = here / f"{name}.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(UserError, match=rf"{name}.npy: (embeddings )?{expected}") as raised:
        build_folder(Given([here / "train.npy", path]), here / "made", EXACT)
    assert "\n" not in str(raised.value)
    assert not (here / "made").exists()
    assert not list(here.glob(".*"))


def catalog(count: int = COUNT) -> pd.DataFrame:
    numbers = np.arange(count)
    return pd.DataFrame(
        {
            "id": numbers,
            "label": numbers % 3,
            "split": [None if number % 5 == 0 else "shelf" for number in numbers],
            "class_name": pd.Categorical([("cat", "dog", None)[number % 3] for number in numbers]),
            "source": [None if number % 7 == 0 else f"böx/{number}\n.png" for number in numbers],
            "sha256": [
                None if number % 2 else hashlib.sha256(b"%d" % number).hexdigest() for number in numbers
            ],
        }
    )


def test_a_catalog_names_the_vectors_and_what_it_leaves_open_is_where_they_stand(here: Path) -> None:
    catalog().to_parquet(here / "catalog.parquet", row_group_size=250)
    given = Given([here / "train.npy", here / "test.npy"], None, here / "catalog.parquet")
    build_folder(given, here / "made", EXACT)
    written = pyarrow.parquet.read_table(here / "made/catalog.parquet").to_pylist()
    for number, row in enumerate(written):
        file, place = ("train", number) if number < 600 else ("test", number - 600)
        assert row == {
            "id": number,
            "split": file if number % 5 == 0 else "shelf",
            "class_name": ("cat", "dog", None)[number % 3],
            "source": f"{file}.npy:{place}" if number % 7 == 0 else f"böx/{number}\\x0a.png",
            "sha256": None if number % 2 else hashlib.sha256(b"%d" % number).hexdigest(),
        }
    index = ImageIndex.open(here / "made")
    assert index.classes == {"cat": 300, "dog": 300}
    found = index.search(VECTORS[7], k=3, class_name="dog")
    dogs = np.arange(1, COUNT, 3)
    assert found["id"].tolist() == dogs[nearest(VECTORS[7:8], VECTORS[dogs], 3)[0]].tolist()
    catalog()[["class_name"]].to_parquet(here / "catalog.parquet")
    build_folder(given, here / "made", EXACT, replace=True)
    assert ImageIndex.open(here / "made").row(601) == {
        "id": 601,
        "split": "test",
        "class_name": "dog",
        "source": "test.npy:1",
    }


WRONG: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "rows": (lambda table: table[:-1], "has 599 rows for 600 vectors"),
    "ids": (lambda table: table.assign(id=table["id"] + 1), "id 1 stands in row 0"),
    "order": (lambda table: table.iloc[::-1], "id 599 stands in row 0"),
    "labels": (lambda table: table.assign(class_name=7), "column class_name is int64: make it text"),
    "text": (lambda table: table.assign(id="a"), "column id is (large_)?string: make it whole numbers"),
    "sha256": (lambda table: table.assign(sha256="AB" * 32), "sha256 'ABAB.*' in row 0"),
    "columns": (lambda table: table[["label"]], "has none of the columns id, split, class_name"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_catalog_of_other_rows_is_refused(here: Path, name: str) -> None:
    change, expected = WRONG[name]
    change(catalog(600)).to_parquet(here / "catalog.parquet")
    with pytest.raises(UserError, match=f"catalog.parquet: {expected}"):
        build_folder(Given([here / "train.npy"], None, here / "catalog.parquet"), here / "made", EXACT)
    assert not (here / "made").exists()


def test_a_damaged_catalog_is_one_line(here: Path) -> None:
    catalog(600).to_parquet(here / "catalog.parquet", compression="none")
    whole = (here / "catalog.parquet").read_bytes()
    given = Given([here / "train.npy"], None, here / "catalog.parquet")
    for content in (
        b"",
        whole[: len(whole) // 2],
        whole.replace(b"shelf", b"sh\xfflf"),
        whole[:4] + bytes(900),
    ):
        (here / "catalog.parquet").write_bytes(content)
        with pytest.raises(UserError, match=r"catalog\.parquet: not a (whole )?parquet file \(.*\)$"):
            build_folder(given, here / "made", EXACT)


def test_the_options_are_the_keys_of_params_yaml_and_so_are_their_rules(here: Path) -> None:
    values = YAML(typ="safe").load((TEMPLATE / "params.yaml").read_text())["index"]
    del values["thumbnail_size"]
    options = {name: each.default for name, each in inspect.signature(build).parameters.items()}
    assert values == {name: options[name] for name in values}
    made = here / "made"
    for option, value, rule in (
        ("target_recall", 1.5, "1.5 should be less than or equal to 1"),
        ("num_queries", 0, "0 should be greater than or equal to 1"),
        ("memory_gib", float("nan"), "nan should be a finite number"),
        ("factory", "IVFx", "FAISS cannot build 'IVFx' for 600 vectors of 12 dimensions"),
        ("memory_gib", 1e-6, "1e-06 is too little for 600 vectors of 12 dimensions"),
    ):
        with pytest.raises(UserError, match=f"^--{option.replace('_', '-')}: {rule}"):
            build([here / "train.npy"], made, **{option: value})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"no\.onnx: missing"):
        build([here / "train.npy"], made, here / "no.onnx")
    with pytest.raises(UserError, match=r"a folder: name its \.npy files"):
        build([here], made)
    said = fails(2, "lookalike", "index", "build", "train.npy", "-o", "made", "--seed", "-1", cwd=here)
    assert said == "--seed: -1 should be greater than or equal to 0"


def test_nothing_but_an_index_folder_is_replaced_and_that_where_it_is_said(here: Path) -> None:
    made, given = here / "made", [here / "train.npy"]
    made.mkdir()  # empty, it is filled
    build(given, made)
    said = fails(2, "lookalike", "index", "build", "train.npy", "-o", "made", cwd=here)
    assert said == "made: is there already: choose another name, or replace it with --force"
    (made / "notes.txt").write_text("mine")
    for path, expected in (
        (made, "made: holds notes.txt, and is no index folder alone: choose another name"),
        (here, "holds made, and is no index folder alone: choose another name"),
        (here / "test.npy", "test.npy: a file: choose another name for the folder"),
    ):
        with pytest.raises(UserError, match=expected):
            build(given, path, force=True)
    assert (made / "notes.txt").read_text() == "mine"
    (here / ".dvc").mkdir()
    (here / "dvc.yaml").write_text("stages: {index: {cmd: x, outs: [data/index]}}\n")
    with pytest.raises(UserError, match=r"DVC owns it \(dvc.yaml\).*: choose another --output"):
        build(given, here / "data/index")


def test_with_an_encoder_the_folder_knows_pictures(here: Path) -> None:
    write_encoder(here / "encoder.onnx", DIM, SIZE)
    write_encoder(here / "other.onnx", DIM + 1, SIZE)
    build_ = ("index", "build", "train.npy", "-o", "made", "--encoder")
    said = fails(2, "lookalike", *build_, "other.onnx", cwd=here)
    assert said.startswith("other.onnx: makes embeddings of 13 dimensions, those of train.npy have 12")
    run_lookalike(*build_, "encoder.onnx", cwd=here)
    photo = write_photo(here, 5)
    added = run_lookalike("index", "add", str(photo), "--index", "made", cwd=here)  # no sha256 is known
    assert added.stdout == "made: 1 added (ids 600), 0 already there, 0 unreadable\n"
    answer = json.loads(run_lookalike("query", str(photo), "--index", "made", "--json", cwd=here).stdout)
    assert answer[0]["neighbors"][0]["id"] == 600
    index = ImageIndex.open(here / "made")
    assert (
        index.encoder.sha256 == Encoder.open(here / "encoder.onnx", "cpu").sha256 == index.card.encoder_sha256
    )


def test_a_folder_without_an_encoder_answers_vectors_and_ids(alone: Path) -> None:
    index = ImageIndex.open(alone / "index")
    assert not index.has_encoder
    queries = clustered(30, DIM, seed=9, num_clusters=9)
    assert ids_of(index, queries, 6) == nearest(queries, VECTORS, 6).tolist()
    expected = nearest(VECTORS[[17, 800]], VECTORS, 4)[:, 1:].tolist()
    assert ids_of(index, [17, 800], 3) == expected
    printed = run_lookalike(
        "query", "--id", "17", "--id", "800", "-k", "3", "--json", "--index", "index", cwd=alone
    )
    answers = json.loads(printed.stdout)
    assert [answer["query"] for answer in answers] == ["17", "800"]
    assert [[each["id"] for each in answer["neighbors"]] for answer in answers] == expected
    said = fails(2, "lookalike", "query", "1.png", "--index", "index", cwd=alone)
    assert said == (
        "index: holds no encoder, so it knows no pictures: ask with an id or an embedding, or build it anew "
        "with 'lookalike index build --encoder FILE.onnx'"
    )
    assert fails(2, "lookalike", "index", "add", "1.png", "--index", "index", cwd=alone) == said
    with pytest.raises(UserError, match="holds no encoder"):
        index.search([np.zeros((SIZE, SIZE, 3), dtype=np.uint8), 17])
    assert "nothing to search with" in fails(2, "lookalike", "query", "--index", "index", cwd=alone)


def test_a_folder_without_an_encoder_is_looked_at_shrunk_and_verified(here: Path) -> None:
    build_folder(Given([here / "train.npy"]), here / "made", EXACT)
    at = ("--index", "made")
    assert json.loads(run_lookalike("index", "info", "--json", *at, cwd=here).stdout)["encoder"] is None
    assert "encoder     none: " in run_lookalike("index", "info", *at, cwd=here).stdout
    run_lookalike("index", "remove", "3", "590-599", *at, cwd=here)
    assert "589 images, every file as" in run_lookalike("index", "verify", *at, cwd=here).stdout
    run_lookalike("index", "compact", *at, cwd=here)
    assert "589 images, every file as" in run_lookalike("index", "verify", *at, cwd=here).stdout
    left = np.delete(np.arange(590), 3)
    index = ImageIndex.open(here / "made")
    assert (
        ids_of(index, VECTORS[599:600], 4)[0] == left[nearest(VECTORS[599:600], VECTORS[left], 4)[0]].tolist()
    )


def test_a_server_without_an_encoder_says_what_it_cannot(alone: Path) -> None:
    with serving(alone / "index") as served:
        expected = nearest(VECTORS[17:18], VECTORS, 4)[0, 1:].tolist()
        by_id = served.post("/v1/search", params={"id": 17, "k": 3}).json()
        assert [each["id"] for each in by_id["answers"][0]["neighbors"]] == expected
        asked = {"embeddings": [(5 * VECTORS[17]).tolist()]}
        by_vector = served.post("/v1/search", params={"k": 4}, json=asked).json()
        assert [each["id"] for each in by_vector["answers"][0]["neighbors"]] == [17, *expected]
        form = [("image", ("1.png", (alone / "1.png").read_bytes()))]
        for answer in (served.search(alone / "1.png"), served.post("/v1/embed", files=form)):
            assert (answer.status_code, answer.json()["title"]) == (409, "no encoder")
            assert answer.headers["content-type"] == "application/problem+json"
        model = served.get("/v1/model")
        assert (model.status_code, model.json()["title"]) == (404, "no encoder")
        assert served.get("/v1/collection").json()["encoder"] is False
        for path in ("/v2/models/encoder", "/v2/models/encoder/ready", "/v2/models/encoder/versions/1"):
            answer = served.get(path)
            assert answer.status_code == 404
            assert list(answer.json()) == ["error"]
        assert served.post("/v2/models/encoder/infer", json={}).status_code == 404
        assert served.get("/v2/health/ready").json() == {"ready": True}


@pytest.mark.parametrize(
    ("factory", "count", "what"),
    [("SQ8", 2 * DIM, "values of its ranges"), ("IVF16,Flat", 16, "lists"), ("Flat", 600 * DIM, "numbers")],
)
def test_a_file_that_claims_what_it_has_not_is_refused_before_memory_is_taken(
    here: Path, factory: str, count: int, what: str
) -> None:
    """How many there are of something becomes 2**36; index.json, which comes with it, names these bytes."""
    build_folder(Given([here / "train.npy"]), here / "made", EXACT.model_copy(update={"factory": factory}))
    path = here / "made/images.faiss"
    content = bytearray(path.read_bytes())
    at = content.index(struct.pack("<Q", count), 37)  # behind what every index begins with
    content[at : at + 8] = struct.pack("<Q", 1 << 36)
    path.write_bytes(content)
    card = json.loads((here / "made/index.json").read_text()) | {"index_sha256": sha256_of(path)}
    (here / "made/index.json").write_text(json.dumps(card))
    little = functools.partial(resource.setrlimit, resource.RLIMIT_DATA, (8 << 30, 8 << 30))
    said = fails(2, "lookalike", "query", "--id", "1", "--index", "made", cwd=here, before=little)
    assert said.startswith("made/images.faiss: not a whole FAISS index"), what
    for into_memory in (False, True):
        with pytest.raises(RuntimeError):
            read_faiss(path, into_memory=into_memory)


def test_the_limits_are_gone_when_a_file_is_read(alone: Path) -> None:
    kinds: Any = faiss
    before = kinds.get_deserialization_vector_byte_limit(), kinds.get_deserialization_loop_limit()
    read_faiss(alone / "index/images.faiss")
    assert before == (kinds.get_deserialization_vector_byte_limit(), kinds.get_deserialization_loop_limit())


def test_a_table_that_only_l2_asks_for_is_no_fault_of_a_small_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAISS would hold what it computes for L2, 16 KiB here, against the limits of a file."""
    monkeypatch.setattr(faiss_file, "_TABLE_AT_LEAST", 0)
    index = faiss.index_factory(DIM, "IVF64,PQ4x4", faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1
    index.train(VECTORS[:300])
    index.add(VECTORS[:300])
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    assert (tmp_path / "index.faiss").stat().st_size < 64 * 4 * 16 * 4
    _, ids = read_faiss(tmp_path / "index.faiss").search(VECTORS[:20], 5)
    np.testing.assert_array_equal(ids, index.search(VECTORS[:20], 5)[1])


def peak_and_screen(folder: Path, *arguments: str) -> tuple[int, str]:
    """The most memory that a command took, in MiB, and what a terminal shows of it."""
    script = (
        "from pathlib import Path; from pipeline.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, "-c", script, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=theirs, text=True
    )
    os.close(theirs)
    screen = os.read(ours, 1 << 20).decode()
    os.close(ours)
    assert done.returncode == 0, screen
    return int(done.stdout.split()[-1]) >> 10, screen


def test_no_table_of_the_catalog_is_in_memory_and_a_terminal_sees_a_bar(tmp_path: Path) -> None:
    """As text the catalog is 164 MB, and what is in memory of it a few groups of 65,536 rows, 11 MB each."""
    count = 1_000_000
    vectors = np.random.default_rng(0).standard_normal((count, 8), dtype=np.float32)
    np.save(tmp_path / "all.npy", vectors.astype(np.float16))
    names = pyarrow.array(np.arange(count)).cast(pyarrow.string())
    table = pyarrow.table(
        {"source": pyarrow.compute.utf8_lpad(names, 100), "sha256": pyarrow.compute.utf8_lpad(names, 64, "0")}
    )
    pyarrow.parquet.write_table(table, tmp_path / "catalog.parquet", row_group_size=100_000)
    build_ = ("index", "build", "all.npy", "--factory", "Flat", "--num-queries", "1")
    without, screen = peak_and_screen(tmp_path, *build_, "-o", "without")
    with_it, _ = peak_and_screen(tmp_path, *build_, "-o", "with", "--catalog", "catalog.parquet")
    assert with_it - without < 140
    assert "check" in screen
    assert "1.00M/1.00M" in screen
    rows = ImageIndex.open(tmp_path / "with").rows(count - 1, 1)
    assert rows[0]["source"] == f"{count - 1:100}"
