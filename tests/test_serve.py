"""The service as programs use it: what it answers, and what it refuses."""

import io
import json
import math
import re
import shutil
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from pipeline import Encoder, ImageIndex
from pipeline.artifacts import Artifacts
from tests.conftest import ROOT
from tests.index_folders import index_photographs
from tests.processes import fails, run, run_lookalike, wait_until
from tests.serving import Served, serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pictures(small_chain: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Test images of the small run as files."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for number, pixels in enumerate(Artifacts(small_chain / "data").read_images("test")[:5]):
        paths.append(folder / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def problem(response: requests.Response, status: int) -> str:
    """The title of a refusal, in the form that RFC 9457 gives it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == status
    assert document["type"] == "about:blank"
    assert document["detail"]
    return str(document["title"])


def test_an_answer_is_that_of_the_query_command(
    served: Served, pictures: list[Path], small_chain: Path
) -> None:
    printed = json.loads(
        run_lookalike("query", *map(str, pictures), "-k", "4", "--json", cwd=small_chain).stdout
    )
    files = [("image", (path.name, path.read_bytes())) for path in pictures]
    answered = served.post("/v1/search?k=4", files=files).json()["answers"]
    assert [answer["query"] for answer in answered] == [path.name for path in pictures]
    for answer, expected in zip(answered, printed, strict=True):
        assert [n["id"] for n in answer["neighbors"]] == [n["id"] for n in expected["neighbors"]]
        for found, neighbor in zip(answer["neighbors"], expected["neighbors"], strict=True):
            assert math.isclose(found.pop("score"), neighbor.pop("score"), abs_tol=1e-5)
            assert found == neighbor


def test_an_image_of_the_collection_is_asked_by_its_id(served: Served, small_chain: Path) -> None:
    index = ImageIndex.open(small_chain / "data/index")
    (answer,) = served.post("/v1/search?id=7&k=3").json()["answers"]
    assert answer["query"] == "7"
    assert [n["id"] for n in answer["neighbors"]] == index.search(7, k=3)["id"].tolist()
    assert 7 not in [n["id"] for n in answer["neighbors"]]
    assert problem(served.post("/v1/search?id=1000000"), 404) == "not found"
    assert problem(served.post("/v1/search?id=7", data=b"x"), 422) == "two questions"


def test_embeddings_are_embedded_and_searched_for(
    served: Served, pictures: list[Path], small_chain: Path
) -> None:
    files = [("image", path.read_bytes()) for path in pictures]
    as_json = np.array(served.post("/v1/embed", files=files).json()["embeddings"], dtype=np.float32)
    npy = served.post("/v1/embed", files=files, headers={"Accept": "application/x-npy"}).content
    np.testing.assert_array_equal(np.load(io.BytesIO(npy)), as_json)
    encoder = Encoder.open(small_chain / "data/encoder/encoder.onnx")
    expected = encoder(Artifacts(small_chain / "data").read_images("test")[: len(pictures)])
    np.testing.assert_allclose(as_json, expected, atol=1e-5)
    # whatever their length
    by_embedding = served.post("/v1/search?k=5", json={"embeddings": (3 * as_json).tolist()}).json()[
        "answers"
    ]
    by_image = served.post("/v1/search?k=5", files=files).json()["answers"]
    ids = [[n["id"] for n in answer["neighbors"]] for answer in by_embedding]
    assert ids == [[n["id"] for n in answer["neighbors"]] for answer in by_image]


def test_filters_leave_k_where_there_are_k(served: Served, pictures: list[Path]) -> None:
    classes = served.get("/v1/collection").json()["classes"]
    name, count = min(classes.items(), key=lambda each: each[1])
    (answer,) = served.search(pictures[0], k=1000, **{"class": name}).json()["answers"]
    assert {n["class_name"] for n in answer["neighbors"]} == {name}
    assert len(answer["neighbors"]) == count
    (answer,) = served.search(pictures[0], k=9, split="train").json()["answers"]
    assert {n["split"] for n in answer["neighbors"]} == {"train"}
    scores = [n["score"] for n in answer["neighbors"]]
    (cut,) = served.search(pictures[0], k=9, split="train", min_score=scores[4]).json()["answers"]
    assert [n["score"] for n in cut["neighbors"]] == scores[:5]
    assert problem(served.search(pictures[0], split="nowhere"), 404) == "not found"


def test_the_collection_and_the_encoder_are_described(served: Served, small_chain: Path) -> None:
    index = ImageIndex.open(small_chain / "data/index")
    collection = served.get("/v1/collection").json()
    assert collection["count"] == len(index)
    assert sum(collection["splits"].values()) == len(index)
    assert collection["dimension"] == index.card.dimension
    model = served.get("/v1/model").json()
    assert model["sha256"] == index.encoder.sha256
    assert model["image_size"] == index.encoder.image_size
    listed = served.get("/v1/images?offset=3&limit=4").json()
    assert [row["id"] for row in listed["images"]] == [3, 4, 5, 6]
    assert listed["images"][0]["source"] == index.search(3, k=1).attrs.get(
        "source", listed["images"][0]["source"]
    )


@pytest.mark.parametrize(
    ("body", "title", "status"),
    [
        ({"embeddings": []}, "embeddings", 422),
        ({"embeddings": [[1.0, 2.0]]}, "embeddings", 422),
        ({"embeddings": [["a"]]}, "embeddings", 422),
        ({"embeddings": [[0.0] * 64]}, "embeddings", 422),
        ({"embeddings": [[10**400] * 64]}, "embeddings", 422),
        ({"vectors": [[1.0]]}, "embeddings", 422),
        ([], "embeddings", 422),
    ],
)
def test_embeddings_that_are_none_are_refused(served: Served, body: object, title: str, status: int) -> None:
    dimension = served.get("/v1/collection").json()["dimension"]
    if isinstance(body, dict) and body.get("embeddings") and len(body["embeddings"][0]) == 64:
        body = {"embeddings": [body["embeddings"][0][:1] * dimension]}
    assert problem(served.post("/v1/search", json=body), status) == title


def test_what_is_not_asked_for_rightly_is_refused_by_name(served: Served, pictures: list[Path]) -> None:
    assert problem(served.post("/v1/search", files={"image": b"text"}), 415) == "unreadable image"
    assert problem(served.post("/v1/search", files={"picture": b"text"}), 422) == "unknown field"
    assert problem(served.post("/v1/search", data=b"text"), 415) == "media type"
    assert problem(served.post("/v1/search"), 415) == "media type"
    many = [("image", pictures[0].read_bytes())] * 65
    assert problem(served.post("/v1/search", files=many), 413) == "too many images"
    for query in ("k=0", "k=1001", "k=many", "min_score=nan", "id=-1", "id=99999999999999999999"):
        assert problem(served.search(pictures[0], **dict([query.split("=")])), 422) == "wrong value"
    assert problem(served.get("/v1/search"), 405) == "method not allowed"
    assert problem(served.get("/v1/images/../../etc/passwd"), 404) == "not found"
    assert problem(served.get("/web/%2e%2e/app.py"), 404) == "not found"
    too_long = (b"x" for _ in range(1))
    assert (
        problem(served.post("/v1/search", data=too_long, headers={"Content-Type": "application/json"}), 400)
        == "malformed JSON"
    )


def test_a_long_body_is_refused_before_it_is_sent(served: Served) -> None:
    with raw(served) as connection:
        connection.sendall(
            b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n"
        )
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer


def test_a_flood_of_headers_is_cut_short(served: Served) -> None:
    with raw(served) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        try:
            for number in range(100_000):
                connection.sendall(f"X-{number}: {'y' * 100}\r\n".encode())
        except OSError:
            pass
        else:
            pytest.fail("it took all of them")
    with raw(served) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 20_000 + b"\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 431 ")
    with raw(served) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_pages_of_other_origins_and_names_that_lead_here_are_refused(served: Served) -> None:
    assert problem(served.get("/v1/model", headers={"Origin": "https://example.org"}), 403) == "cross-origin"
    assert served.get("/v1/model", headers={"Origin": served.url}).status_code == 200
    assert problem(served.get("/v1/model", headers={"Host": "example.org"}), 421) == "unknown host"


def test_every_answer_has_the_headers_of_safety_and_an_id(served: Served) -> None:
    for path in ("/", "/v1/model", "/nowhere", "/v2/health/live", "/metrics"):
        headers = served.get(path, headers={"X-Request-Id": "mine-1"}).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-request-id"] == "mine-1"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers
    assert served.get("/", headers={"X-Request-Id": "a b"}).headers["x-request-id"] != "a b"
    wait_until(lambda: any("mine-1" in line and "/v1/model" in line for line in served.log))


def test_a_server_beyond_this_machine_asks_for_a_token(small_chain: Path, pictures: list[Path]) -> None:
    secret = "a-secret-of-many-letters"
    folder = small_chain / "data/index"
    with serving(folder, "--host", "0.0.0.0", environment={"LOOKALIKE_TOKEN": secret}) as server:
        server.url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert problem(server.search(pictures[0]), 401) == "no token"
        assert server.get("/v1/model", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert server.get("/v1/model", headers={"Authorization": f"Bearer {secret}"}).status_code == 200
        assert server.get("/v2/models/encoder").status_code == 401
        assert server.get("/metrics").status_code == 401
        assert server.get("/v2/health/ready").status_code == 200
        assert server.get("/").status_code == 200


def test_a_server_that_cannot_start_says_why(small_chain: Path, tmp_path: Path) -> None:
    said = fails(2, "lookalike", "serve", "--host", "0.0.0.0", cwd=small_chain)
    assert said.startswith("--host 0.0.0.0 opens the collection to other machines: set LOOKALIKE_TOKEN")
    assert "index.json: missing" in fails(2, "lookalike", "serve", "--index", str(tmp_path), cwd=ROOT)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = fails(1, "lookalike", "serve", "--port", str(port), cwd=small_chain)
    assert said.startswith(f"127.0.0.1:{port}: Address already in use")


def test_sigterm_finishes_what_is_under_way(small_chain: Path, pictures: list[Path]) -> None:
    with serving(small_chain / "data/index") as server, raw(server) as connection:
        boundary, content = b"b", pictures[0].read_bytes()
        body = b"--b\r\nContent-Disposition: form-data; name=image\r\n\r\n" + content + b"\r\n--b--\r\n"
        head = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary="
        connection.sendall(head + boundary + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:-10])
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        connection.sendall(body[-10:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
        assert server.process.wait(20) == 0


def raw(server: Served) -> socket.socket:
    """A connection without a client's manners."""
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def test_the_examples_of_the_documents_run(tmp_path: Path) -> None:
    """Each curl line and the Python of docs/serve.md, against a server of photographs on another port."""
    index_photographs(tmp_path / "index")
    for name in ("photo.jpg", "a.jpg", "b.jpg"):
        shutil.copy(ROOT / "docs/images/glacier.jpg", tmp_path / name)
    text = (ROOT / "docs/serve.md").read_text()
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.splitlines()]
    (python,) = re.findall(r"```python\n(.*?)```", text, re.S)
    with serving(tmp_path / "index") as server:
        address = server.url.removeprefix("http://")
        asked = [line.replace("localhost:8000", address) for line in lines if line.startswith("curl ")]
        assert len(asked) == 3
        for line in asked:
            done = run(
                "bash", "-c", line.replace("curl ", "curl --silent --fail-with-body ", 1), cwd=tmp_path
            )
            assert json.loads(done.stdout)["answers"], line
        printed = run("python", "-c", python.replace("localhost:8000", address), cwd=tmp_path).stdout
        dimension = server.get("/v1/collection").json()["dimension"]
    assert printed == f"(2, {dimension})\n"
