"""What strangers send: each is refused by name, and the next honest request is answered."""

import asyncio
import contextlib
import errno
import io
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.service import decoding
from pipeline.service.limits import Limits
from tests.index_folders import index_photographs
from tests.processes import wait_until
from tests.serving import Served, serving, serving_within

pytestmark = pytest.mark.slow

NUM_REQUESTS = 2_000
PROMISE = Limits(request_s=1.5, header_s=1.0)


@pytest.fixture(scope="module")
def photo() -> bytes:
    """Real enough for a decoder: noise, as a JPEG."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index folder of real photographs."""
    path = tmp_path_factory.mktemp("hostile") / "index"
    index_photographs(path)
    return path


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    with serving_within(folder, PROMISE) as server:
        yield server


def form(content: bytes, name: bytes = b"image") -> bytes:
    """The body of a form with one file."""
    return (
        b"--b\r\nContent-Disposition: form-data; name="
        + name
        + b"; filename=a\r\n\r\n"
        + content
        + b"\r\n--b--\r\n"
    )


def post(
    body: bytes,
    path: bytes = b"/v1/search",
    kind: bytes = b"multipart/form-data; boundary=b",
    more: bytes = b"",
) -> bytes:
    head = b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: " + kind + b"\r\n" + more
    if b"Content-Length" not in more and b"Transfer-Encoding" not in more:
        head += b"Content-Length: %d\r\n" % len(body)
    return head + b"\r\n" + body


def bomb(side: int) -> bytes:
    """A PNG of side x side black pixels, if someone believes its header: a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    content = zlib.compress(bytes(100_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def hostile(rng: random.Random, photo: bytes) -> bytes:
    """One request that must be refused."""
    garbage = rng.randbytes(rng.randrange(1, 3_000))
    kinds: list[Callable[[], bytes]] = [
        lambda: post(form(bomb(rng.choice([7_072, 20_000, 2**31 - 1])))),
        lambda: post(form(photo[: rng.randrange(1, len(photo) // 2)])),
        lambda: post(form(garbage)),
        lambda: post(form(b"<svg xmlns='http://www.w3.org/2000/svg'/>")),
        lambda: post(form(b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run\n")),
        lambda: post(
            form(photo), path=b"/v1/search?k=" + rng.choice([b"0", b"-1", b"1e9", b"9" * 5_000, b"%00"])
        ),
        lambda: post(form(photo), path=b"/v1/search?min_score=" + rng.choice([b"inf", b"nan", b"2", b"--"])),
        lambda: post(b"", path=b"/v1/search?id=" + rng.choice([b"-1", b"9" * 40, b"a", b"1.5", b"77777777"])),
        lambda: post(b"", path=b"/v1/images/" + rng.choice([b"../../etc/passwd", b"%2e%2e%2fx", b"1/../2"])),
        lambda: b"GET /web/..%2f..%2fserver.py HTTP/1.1\r\nHost: localhost\r\n\r\n",
        lambda: b"GET /v1/images/" + b"%2e/" * 50 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        lambda: post(form(photo)[: rng.randrange(1, 60)]),
        lambda: post(form(photo)[:-8]),
        lambda: post(form(photo, name=b"file")),
        lambda: post(form(photo), kind=b"multipart/form-data"),
        lambda: post(form(photo), kind=b"multipart/form-data; boundary=" + b"b" * 500),
        lambda: post(garbage),
        lambda: post(b"--b\r\n" + b"X: y\r\n" * 50 + b"\r\n\r\n--b--\r\n"),
        lambda: post(b"--b\r\nX: " + b"y" * 9_000 + b"\r\n\r\n\r\n--b--\r\n"),
        lambda: post(garbage, kind=b"application/json"),
        lambda: post(b"[" * 100_000, kind=b"application/json"),
        lambda: post(b'{"embeddings": [[' + b"9" * 10_000 + b"]]}", kind=b"application/json"),
        lambda: post(b'{"embeddings": [[NaN]]}', kind=b"application/json"),
        lambda: post(form(photo), more=b"Content-Encoding: gzip\r\n"),
        lambda: post(b"", more=b"Content-Length: 99999999999\r\n"),
        lambda: post(form(photo), more=b"Content-Length: -5\r\n"),
        lambda: post(form(photo), more=b"Content-Length: 10\r\nContent-Length: 20\r\n"),
        lambda: post(form(photo), more=b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n" % len(photo)),
        lambda: post(b"zz\r\n" + photo, more=b"Transfer-Encoding: chunked\r\n"),
        lambda: post(form(photo), more=b"".join(b"X-%d: y\r\n" % number for number in range(3_000))),
        lambda: post(form(photo), more=b"X: " + b"y" * 40_000 + b"\r\n"),
        lambda: post(form(photo), more=b"Origin: https://example.org\r\n"),
        lambda: post(garbage, path=b"/v2/models/encoder/infer", kind=b"application/json"),
        lambda: post(
            garbage, path=b"/v2/models/encoder/infer", more=b"Inference-Header-Content-Length: 3\r\n"
        ),
        lambda: garbage + b"\r\n\r\n",
        lambda: b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        lambda: b"DELETE /v1/images/1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        lambda: b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    ]
    return rng.choice(kinds)()


def sent(served: Served, request: bytes) -> bytes:
    """The answer to what is sent as it is; empty where the server hung up without one."""
    host, _, port = served.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        # it may be refused before all of it was sent
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
        try:
            return connection.recv(65536)
        except ConnectionResetError:
            return b""


def test_two_thousand_hostile_requests_are_refused_and_the_next_honest_one_is_answered(
    served: Served, photo: bytes
) -> None:
    seen: Counter[bytes] = Counter()
    failures: list[tuple[bytes, bytes]] = []

    def attack(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(NUM_REQUESTS // 4):
            request = hostile(rng, photo)
            answer = sent(served, request)
            status = answer[9:12]
            seen[status] += 1
            if not re.fullmatch(rb"HTTP/1.1 (4\d\d|503) .*", answer.partition(b"\r\n")[0]):
                failures.append((request[:300], answer[:300]))
            elif b"Traceback" in answer:
                failures.append((request[:300], answer))

    attackers = [threading.Thread(target=attack, args=(seed,)) for seed in range(4)]
    for attacker in attackers:
        attacker.start()
    for attacker in attackers:
        attacker.join()
    assert failures == []
    assert sum(seen.values()) == NUM_REQUESTS
    assert len(seen) >= 6, seen  # they are told apart
    assert served.post("/v1/search", files={"image": photo}).status_code == 200
    assert served.process.poll() is None


def test_slow_heads_and_bodies_are_hung_up_on(served: Served, photo: bytes) -> None:
    host, _, port = served.url.removeprefix("http://").rpartition(":")
    request = post(form(photo))
    with (
        socket.create_connection((host, int(port)), timeout=10) as slow_head,
        socket.create_connection((host, int(port)), timeout=10) as slow_body,
        socket.create_connection((host, int(port)), timeout=10) as silent,
    ):
        slow_head.sendall(request[:30])
        slow_body.sendall(request[:-50])
        answer = b"".join(iter(lambda: slow_body.recv(65536), b""))  # to its end: it is hung up on
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert slow_head.recv(65536) == b""
        assert silent.recv(65536) == b""
    assert served.post("/v1/search", files={"image": photo}).status_code == 200


def test_a_decoder_that_dies_costs_its_image_alone(folder: Path, photo: bytes) -> None:
    with serving(folder) as server:
        assert server.post("/v1/search", files={"image": photo}).status_code == 200
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        for _ in range(3):
            for child in children.read_text().split():
                os.kill(int(child), 9)
            assert server.post("/v1/search", files={"image": photo}).status_code == 200
        metrics = server.get("/metrics").text
        assert float(re.search(r"^lookalike_decoder_deaths_total (\S+)", metrics, re.M)[1]) >= 3  # type: ignore[index]


def test_an_image_that_takes_too_long_is_refused_and_the_next_is_answered(folder: Path, photo: bytes) -> None:
    """The large image takes a second; on a machine that others use too the small one may be late as well."""
    file = io.BytesIO()
    Image.new("RGB", (7_000, 7_000)).save(file, "PNG", compress_level=1)
    with serving_within(folder, Limits(decode_s=0.05)) as server:
        late = server.post("/v1/search", files={"image": file.getvalue()})
        assert late.status_code == 415
        assert "takes longer than 0.05 s to decode" in late.json()["detail"]
        wait_until(lambda: server.post("/v1/search", files={"image": photo}).status_code == 200)


def test_a_decoder_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, photo: bytes
) -> None:
    """A machine that has no process or file to spare has one a moment later."""
    start, num_tries = decoding._start, 0

    async def start_the_second_time() -> asyncio.subprocess.Process:
        nonlocal num_tries
        num_tries += 1
        if num_tries == 1:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return await start()

    async def decoded() -> tuple[int, ...]:
        decoders = decoding.Decoders(Limits(), on_death=lambda: None)
        decoders.start(1)
        try:
            async with asyncio.timeout(30):
                return (await decoders.decode(photo, 32)).shape
        finally:
            await decoders.stop()

    monkeypatch.setattr(decoding, "_start", start_the_second_time)
    assert asyncio.run(decoded()) == (32, 32, 3)


def test_a_full_server_says_when_to_come_again(folder: Path, photo: bytes) -> None:
    limits = Limits(waiting_images=3)
    with serving_within(folder, limits) as server:
        full = server.post("/v1/search", files=[("image", photo)] * 4)
        assert full.status_code == 503
        assert full.json()["title"] == "full"
        assert int(full.headers["Retry-After"]) >= 1
        assert server.post("/v1/search", files=[("image", photo)] * 3).status_code == 200


def test_more_connections_than_there_may_be_are_told_so(folder: Path, photo: bytes) -> None:
    with serving_within(folder, Limits(connections=4)) as server:
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            fifth = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            answer = fifth.recv(65536)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answer
        assert b"4 connections are open" in answer
        wait_until(lambda: sent(server, post(form(photo))).startswith(b"HTTP/1.1 200"), timeout_s=10)


def connected(served: Served, stack: contextlib.ExitStack) -> socket.socket:
    host, _, port = served.url.removeprefix("http://").rpartition(":")
    return stack.enter_context(socket.create_connection((host, int(port)), timeout=10))


def to_its_end(connection: socket.socket) -> bytes:
    """All that comes until the server hangs up; one that does not is a timeout."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        parts += iter(lambda: connection.recv(1 << 20), b"")
    return b"".join(parts)


def test_heads_that_promise_long_bodies_take_no_room_before_these_come(folder: Path, photo: bytes) -> None:
    with serving_within(folder, Limits()) as server, contextlib.ExitStack() as stack:
        for _ in range(10):
            connected(server, stack).sendall(post(b"", more=b"Content-Length: 33554432\r\n"))
        assert server.post("/v1/search", files={"image": photo}).status_code == 200


def test_a_refused_request_whose_body_does_not_end_is_hung_up_on(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        connection = connected(served, stack)
        connection.sendall(post(b"x", path=b"/", more=b"Content-Length: 1000000\r\n"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 405 ")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(b"y")  # which ends what the server waits for between two requests
        to_its_end(connection)


def test_who_asks_and_does_not_read_is_hung_up_on(served: Served) -> None:
    files = Path(f"/proc/{served.process.pid}/fd")
    num_requests, num_files = 300, len(list(files.iterdir()))
    with contextlib.ExitStack() as stack:
        connection = connected(served, stack)
        connection.sendall(post(b"", path=b"/v1/search?id=0&k=300") * num_requests)
        wait_until(lambda: len(list(files.iterdir())) > num_files, timeout_s=5)
        wait_until(lambda: len(list(files.iterdir())) <= num_files, timeout_s=8 * PROMISE.request_s)
        assert to_its_end(connection).count(b"HTTP/1.1 200") < num_requests


def test_json_that_would_take_seconds_to_read_is_refused(served: Served) -> None:
    body = b'{"embeddings": [' + b"[]," * 3_000_000 + b"[]]}"
    answer = served.post("/v1/search", data=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["title"] == "JSON too long"


def test_schemathesis_finds_nothing_with_all_its_checks(served: Served, tmp_path: Path) -> None:
    # bytes that fit the schema are hardly ever an image, nor is any id one of the collection
    allowed = json.dumps(["2xx", "304", "401", "403", "404", "415", "422"])
    (tmp_path / "schemathesis.toml").write_text(
        f"[checks.positive_data_acceptance]\nexpected-statuses = {allowed}\n"
        '[checks.negative_data_rejection]\nexpected-statuses = ["4xx"]\n'
    )
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{served.url}/openapi.json"]
    options = ["--checks", "all", "--max-examples", "40", "--seed", "1", "--no-color"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr
    assert "6 selected / 6 total" in done.stdout
