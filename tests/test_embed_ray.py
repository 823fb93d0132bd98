"""Engine ray: the rows of the local engine, from anywhere, whoever is killed."""

import logging
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from benchmarks.index.changes import write_encoder
from pipeline import Encoder
from pipeline.collection.places import place_of
from pipeline.encoder.from_files import parts
from pipeline.encoder.from_files.embed_files import embed_files
from pipeline.encoder.on_ray import cluster as module
from pipeline.encoder.on_ray import files
from pipeline.encoder.on_ray.cluster import begin_try, cluster, end_tries
from pipeline.encoder.on_ray.files import embed_files_on_ray
from pipeline.errors import MachineError, StoppedError, UserError
from tests.conftest import ROOT, change_params
from tests.processes import fails, run_stage
from tests.ray_workers import LOG
from tests.tiny_embed import embeddings_of, write_project

# Ray, moto and boto3 warn of themselves
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("ray")]

NUM_PHOTOS = 30
KINDS = ("photos", "photos.tar", "photos.tar.gz", "photos.zip", "photos.parquet")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Photographs in every kind of place, in a folder and, at the same names, in s3://bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    folder = tmp_path_factory.mktemp("places")
    for number in range(NUM_PHOTOS):
        path = folder / "photos" / ("a" if number % 2 else "b c") / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (17 + number % 5, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    (folder / "photos/a/000 none.jpg").write_bytes(b"hello")
    (folder / "photos/notes.txt").write_text("hello")
    photos = folder / "photos"
    names = sorted(path for path in photos.rglob("*") if path.is_file())
    with zipfile.ZipFile(folder / "photos.zip", "w") as packed:
        for path in names:
            packed.write(path, str(path.relative_to(photos)))
    for kind, mode in (("tar", "w"), ("tar.gz", "w:gz")):
        with tarfile.open(folder / f"photos.{kind}", mode) as archive:  # type: ignore[call-overload]
            for path in names:
                archive.add(path, str(path.relative_to(photos)))
    rows = [{"bytes": path.read_bytes(), "path": path.name} for path in names[:-1]]
    pyarrow.parquet.write_table(pyarrow.table({"image": rows}), folder / "photos.parquet", row_group_size=7)
    write_encoder(folder / "encoder.onnx", 12, 16)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.get_host_and_port()[1]}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(key, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        for path in folder.rglob("*"):
            if path.is_file():
                client.upload_file(str(path), "bucket", path.relative_to(folder).as_posix())
        yield folder
    server.stop()


@pytest.fixture(scope="module")
def ray_here(bucket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Ray, as the command starts it, and the address by which another process joins it."""
    home = tmp_path_factory.mktemp("home")
    before = set(Path("/tmp").glob("lookalike-ray-*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("PYTHONPATH", str(ROOT))
        for name in (*module._QUIET, *module._LOOPBACK_ALONE, "RAY_AUTH_TOKEN"):
            patch.setenv(name, os.environ.get(name, ""))
        os.environ.pop("RAY_AUTH_TOKEN")
        with cluster(None):
            import ray  # which reads its environment as it is imported

            yield ray.get_runtime_context().gcs_address
    assert set(Path("/tmp").glob("lookalike-ray-*")) == before
    assert not list(home.iterdir())


def test_ray_listens_at_loopback_alone_and_tells_nobody(ray_here: str) -> None:
    from ray._common.usage import usage_lib

    assert not usage_lib.usage_stats_enabled()
    process = psutil.Process()
    listening = [
        connection.laddr
        for each in (process, *process.children(recursive=True))
        for connection in each.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 5  # its own services, each a port
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert not [each for each in process.children(recursive=True) if "8265" in each.cmdline()]


def test_from_anywhere_the_table_is_that_of_the_local_engine(
    ray_here: str, bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files, folders, archives and tables; here, in S3 by pyarrow, and by a file system of fsspec's."""
    monkeypatch.setattr(parts, "_MEMBERS", 25)
    paths = [str(bucket / kind) for kind in KINDS if "tar" not in kind]
    paths += [f"s3://bucket/{kind}" for kind in KINDS]
    paths += [f"local://{bucket}/photos.tar.gz", f"local://{bucket}/photos/a/001.png"]
    places = [place_of(path) for path in paths]
    tables = [tmp_path / "local.parquet", tmp_path / "ray.parquet"]
    encoder = Encoder.open(bucket / "encoder.onnx", "cpu")
    num_rows, skipped = embed_files(encoder, places, 16, tables[0])
    assert (num_rows, len(skipped)) == (9 * NUM_PHOTOS + 1, 9)
    done = embed_files_on_ray(bucket / "encoder.onnx", places, 16, tables[1], "auto", None)
    assert done == (num_rows, skipped)
    local, on_ray = (pd.read_parquet(table) for table in tables)
    columns = ["source", "sha256", "width", "height"]
    pd.testing.assert_frame_equal(on_ray[columns], local[columns])
    np.testing.assert_allclose(np.stack(on_ray["embedding"]), np.stack(local["embedding"]), atol=1e-5)
    schemas = [pyarrow.parquet.read_schema(table) for table in tables]
    assert schemas[0].equals(schemas[1], check_metadata=True)
    assert sorted(tmp_path.iterdir()) == sorted(tables)


def test_a_stopped_run_goes_on_and_other_images_begin_anew(
    ray_here: str, bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_MEMBERS", 7)
    photos, table = tmp_path / "photos", tmp_path / "out.parquet"
    shutil.copytree(bucket / "photos", photos)
    begun: list[list[int]] = []

    def on_actors(worker: type, arguments: list, items: list, device: str) -> Iterator[int]:  # type: ignore[type-arg]
        """In this process; the first time it is interrupted after three shards."""
        here = worker(*arguments, cuda=False)
        begun.append([])
        for item in items:
            begun[-1].append(item["shard"])
            yield here(item)
            if len(begun) == 1 and len(begun[0]) == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(files, "on_actors", on_actors)

    def embed() -> int:
        return embed_files_on_ray(bucket / "encoder.onnx", [photos], 16, table, "cpu", None)[0]

    with pytest.raises(StoppedError) as stopped:
        embed()
    assert "the finished parts are kept in" in str(stopped.value)
    assert not table.exists()
    shard = tmp_path / ".out.parquet.shards/0000001.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])  # a damaged one is not taken for done
    assert embed() == NUM_PHOTOS
    assert begun == [[0, 1, 2], [1, 3, 4]]
    whole = table.read_bytes()
    assert not shard.parent.exists()

    begun[:] = []
    with pytest.raises(StoppedError):
        embed()
    os.utime(photos / "a/001.png", (1, 1))  # another file, for all that is known
    assert embed() == NUM_PHOTOS
    assert begun == [[0, 1, 2], [0, 1, 2, 3, 4]]
    assert table.read_bytes() == whole


def stage_on_ray(project: Path, victim: str, address: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.ray_workers", victim]
    return subprocess.run(command, cwd=project, env=environment, text=True, capture_output=True)


def test_a_killed_worker_costs_its_shard_and_a_killed_stage_what_was_under_way(
    ray_here: str, tmp_path: Path
) -> None:
    project = write_project(tmp_path)
    run_stage("embed", project)
    local = {
        path.relative_to(project): np.load(path) for path in sorted(project.rglob("data/embeddings/**/*.npy"))
    }
    assert len(local) == 6
    change_params(project / "params.yaml", {"embed.engine": "ray"})

    done = stage_on_ray(project, "stage", ray_here)
    assert done.returncode == -9, done.stderr
    kept = {(path.parents[1], path.name) for path in project.rglob(".lookalike/embedded/*/**/*.parquet")}
    assert 3 <= len(kept) < 20
    num_kept = len(kept)
    (project / LOG).unlink()
    (project / "died").unlink()
    done = stage_on_ray(project, "worker", ray_here)
    assert done.returncode == 0, done.stderr
    assert (project / "died").exists()
    begun = (project / LOG).read_text().splitlines()
    (twice,) = {line for line in begun if begun.count(line) > 1}
    assert begun.count(twice) == 2
    num_shards = sum(-(-len(array) // 128) for array in local.values())
    assert len(set(begun)) == num_shards - num_kept
    for path, expected in local.items():
        np.testing.assert_allclose(np.load(project / path), expected, atol=1e-5)
    assert not list((project / ".lookalike/embedded").iterdir())
    assert "embeddings.json" in embeddings_of(project)


def test_what_kills_its_worker_again_and_again_is_not_tried_for_ever(tmp_path: Path) -> None:
    for _ in range(3):
        begin_try(tmp_path / "shard", "rows from 0")
    with pytest.raises(MachineError, match="rows from 0: 3 workers were killed at it, most likely for want"):
        begin_try(tmp_path / "shard", "rows from 0")
    end_tries(tmp_path / "shard")
    begin_try(tmp_path / "shard", "rows from 0")


def test_a_fault_of_a_worker_is_its_own_line(ray_here: str, bucket: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.tar.gz").write_bytes((bucket / "photos.tar.gz").read_bytes()[:3000])
    with pytest.raises(UserError, match=r"cut\.tar\.gz: damaged or cut short"):
        embed_files_on_ray(
            bucket / "encoder.onnx", [tmp_path / "cut.tar.gz"], 16, tmp_path / "out.parquet", "cpu", None
        )


def without_ray() -> None:
    """Before a command: as where Ray is not installed."""
    sys.modules["ray"] = None  # type: ignore[assignment]


def test_without_ray_it_is_said_what_to_install(bucket: Path, tmp_path: Path) -> None:
    project = write_project(tmp_path, **{"embed.engine": "ray"})
    line = "ray is not installed, which engine ray needs: pip install 'lookalike[scale]'"
    assert fails(1, "embed", cwd=project, before=without_ray) == line
    arguments = [str(bucket / "photos"), "-o", "out.parquet", "--engine", "ray"]
    assert fails(1, "lookalike", "embed", *arguments, cwd=project, before=without_ray) == line


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nope://bucket/x"], "nope://bucket/x: neither pyarrow (Unrecognized filesystem type"),
        (["s3://bucket/nothing"], "s3://bucket/nothing: no such file or folder"),
        (["--engine", "spark", "photos"], "--engine: 'spark' is none of local, ray"),
        (["--ray-address", "auto", "photos"], "--ray-address: only for --engine ray"),
    ],
)
def test_a_mistake_is_one_line(bucket: Path, arguments: list[str], line: str) -> None:
    encoder = ["--encoder", "encoder.onnx", "-o", "out.parquet"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline.cli.main", "embed", *arguments, *encoder]
    done = subprocess.run(command, cwd=bucket, env=environment, text=True, capture_output=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {line}")
    assert done.stderr.count("\n") == 1
