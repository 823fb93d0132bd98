"""Downloads against real servers on loopback: cut, slow, stubborn, wrong and absent ones."""

import errno
import hashlib
import re
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.collection.sources.download import MAX_ATTEMPTS, download
from pipeline.errors import MachineError, UserError

BODY = np.random.default_rng(0).bytes(300_000)
HALF = len(BODY) // 2
NAME = "photos.tar.gz"
MD5 = hashlib.md5(BODY).hexdigest()

Answer = Callable[["Handler"], None]
Serve = Callable[..., "Server"]


class Handler(BaseHTTPRequestHandler):
    """Answers the n-th request with the n-th answer of its server, the last of them ever after."""

    server: "Server"

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers["Range"])
        self.server.answers[min(len(self.server.ranges), len(self.server.answers)) - 1](self)

    def begin(self, *, ranges: bool = True) -> int:
        """Sends the head of the answer; returns the byte that its body begins at."""
        asked = self.headers["Range"]
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and ranges else 0
        if start >= len(BODY):
            self.send_error(416)
            return start
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(BODY) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
        self.end_headers()
        return start

    def log_message(self, *_: Any) -> None:
        """Silent."""


class Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them

    def __init__(self, *answers: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = answers
        self.ranges: list[str | None] = []  # what each request asked for
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{NAME}"


def whole(handler: Handler) -> None:
    handler.wfile.write(BODY[handler.begin() :])


def cut_in_half(handler: Handler) -> None:
    handler.wfile.write(BODY[handler.begin() : HALF])


def whole_whatever_is_asked(handler: Handler) -> None:
    handler.begin(ranges=False)
    handler.wfile.write(BODY)


def cut_in_half_whatever_is_asked(handler: Handler) -> None:
    handler.begin(ranges=False)
    handler.wfile.write(BODY[:HALF])


def of_unsaid_length(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(BODY)


def another_part(handler: Handler) -> None:
    handler.send_response(206)
    handler.send_header("Content-Length", "1000")
    handler.send_header("Content-Range", f"bytes 0-999/{len(BODY)}")
    handler.end_headers()
    handler.wfile.write(BODY[:1000])


def part_of_the_rest(handler: Handler) -> None:
    handler.send_response(206)
    handler.send_header("Content-Length", "1000")
    handler.send_header("Content-Range", f"bytes {HALF}-{HALF + 999}/{len(BODY)}")
    handler.end_headers()
    handler.wfile.write(BODY[HALF : HALF + 1000])


def wrong(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b"<html>log in to this network</html>")


def dribbling(handler: Handler) -> None:
    start = handler.begin()
    for part in np.array_split(np.frombuffer(BODY[start:], np.uint8), 6):
        handler.wfile.write(part.tobytes())
        time.sleep(0.1)


def stalled(handler: Handler) -> None:
    handler.wfile.write(BODY[handler.begin() : HALF])
    handler.server.closing.wait()


def hung_up(handler: Handler) -> None:
    """Not even a status."""


def status(code: int) -> Answer:
    return lambda handler: handler.send_error(code)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts servers that give the answers named, and closes them after the test."""
    monkeypatch.setenv("no_proxy", "*")
    running: list[tuple[Server, threading.Thread]] = []

    def start(*answers: Answer) -> Server:
        server = Server(*answers)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / NAME


def partial_of(path: Path) -> Path:
    return path.with_name(f"{NAME}.partial")


def fetch(url: str, path: Path, timeout_s: float = 5.0) -> None:
    download(url, path, MD5, timeout_s=timeout_s, pause_s=0.01)


def failure(url: str, path: Path, timeout_s: float = 5.0) -> str:
    """The one line that a failed download leaves, and nothing under the final name."""
    with pytest.raises(MachineError) as raised:
        fetch(url, path, timeout_s)
    message = str(raised.value)
    assert "\n" not in message
    assert url in message
    assert "dataset.root" in message
    assert "dataset.mirror" in message
    assert NAME in message
    assert not path.exists()
    return message


def arrived(path: Path) -> bool:
    return path.read_bytes() == BODY and [file.name for file in path.parent.iterdir()] == [NAME]


def test_a_file_arrives_whole_and_the_folder_is_made(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / NAME
    server = serve(whole)
    fetch(server.url, path)
    assert arrived(path)
    assert server.ranges == [None]


def test_a_file_that_is_there_is_not_asked_for(serve: Serve, path: Path) -> None:
    path.write_bytes(BODY)
    server = serve(whole)
    fetch(server.url, path)
    assert server.ranges == []


def test_a_file_that_is_there_with_another_md5_is_replaced(serve: Serve, path: Path) -> None:
    path.write_bytes(b"of another year")
    fetch(serve(whole).url, path)
    assert arrived(path)


def test_a_body_whose_length_is_not_said_arrives(serve: Serve, path: Path) -> None:
    fetch(serve(of_unsaid_length).url, path)
    assert arrived(path)


def test_a_broken_transfer_goes_on_where_it_stopped(serve: Serve, path: Path) -> None:
    server = serve(cut_in_half, whole)
    fetch(server.url, path)
    assert arrived(path)
    assert server.ranges == [None, f"bytes={HALF}-"]


@pytest.mark.parametrize(
    ("trouble", "asked_next"),
    [
        (hung_up, f"bytes={HALF}-"),
        (status(503), f"bytes={HALF}-"),
        (another_part, None),
        (part_of_the_rest, f"bytes={HALF + 1000}-"),
    ],
)
def test_a_passing_trouble_is_tried_again(
    serve: Serve, path: Path, trouble: Answer, asked_next: str | None
) -> None:
    partial_of(path).write_bytes(BODY[:HALF])
    server = serve(trouble, whole)
    fetch(server.url, path)
    assert arrived(path)
    assert server.ranges == [f"bytes={HALF}-", asked_next]


def test_a_line_that_breaks_off_often_gets_there_as_long_as_it_gets_on(serve: Serve, path: Path) -> None:
    def a_little(handler: Handler) -> None:
        start = handler.begin()
        handler.wfile.write(BODY[start : start + HALF // 5])

    server = serve(a_little)
    fetch(server.url, path)
    assert arrived(path)
    assert len(server.ranges) == 10 > MAX_ATTEMPTS


def test_a_transfer_cut_off_for_good_is_an_error_and_the_next_call_completes_it(
    serve: Serve, path: Path
) -> None:
    server = serve(cut_in_half)
    message = failure(server.url, path)
    assert f"broke off ({HALF:,} bytes before the end)" in message
    assert f"the same command goes on from byte {HALF:,}" in message
    assert len(server.ranges) == MAX_ATTEMPTS
    assert partial_of(path).read_bytes() == BODY[:HALF]

    server.answers = (whole,)
    server.ranges.clear()
    fetch(server.url, path)
    assert arrived(path)
    assert server.ranges == [f"bytes={HALF}-"]


def test_a_server_that_knows_no_ranges_starts_anew(serve: Serve, path: Path) -> None:
    server = serve(cut_in_half, whole_whatever_is_asked)
    fetch(server.url, path)
    assert arrived(path)
    assert len(server.ranges) == 2


def test_a_server_that_knows_no_ranges_and_always_breaks_off_is_given_up(serve: Serve, path: Path) -> None:
    server = serve(cut_in_half_whatever_is_asked)
    assert "broke off" in failure(server.url, path)
    assert len(server.ranges) == MAX_ATTEMPTS


def test_a_wrong_md5_is_one_line_and_leaves_nothing(serve: Serve, path: Path) -> None:
    server = serve(wrong)
    message = failure(server.url, path)
    assert MD5 in message
    assert hashlib.md5(b"<html>log in to this network</html>").hexdigest() in message
    assert list(path.parent.iterdir()) == []
    assert len(server.ranges) == 1


def test_a_partial_of_another_file_is_thrown_away(
    serve: Serve, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partial_of(path).write_bytes(bytes(1000))
    server = serve(whole)
    fetch(server.url, path)
    assert arrived(path)
    assert server.ranges == ["bytes=1000-", None]
    assert "does not fit, downloading it anew" in capsys.readouterr().err


def test_a_partial_of_another_file_and_a_wrong_md5_is_one_line_and_leaves_nothing(
    serve: Serve, path: Path
) -> None:
    partial_of(path).write_bytes(bytes(1000))
    server = serve(whole, wrong)
    assert MD5 in failure(server.url, path)
    assert list(path.parent.iterdir()) == []
    assert len(server.ranges) == 2


def test_a_partial_longer_than_the_file_is_thrown_away(serve: Serve, path: Path) -> None:
    partial_of(path).write_bytes(bytes(len(BODY) + 1))
    server = serve(whole)
    fetch(server.url, path)
    assert arrived(path)
    assert server.ranges == [f"bytes={len(BODY) + 1}-", None]


def test_a_partial_that_is_whole_only_gets_its_name(serve: Serve, path: Path) -> None:
    partial_of(path).write_bytes(BODY)
    server = serve(whole)
    fetch(server.url, path)
    assert arrived(path)
    assert server.ranges == []


def test_a_refused_request_is_not_tried_again_and_keeps_what_came(serve: Serve, path: Path) -> None:
    partial_of(path).write_bytes(BODY[:HALF])
    server = serve(status(404))
    assert "answered 404 Not Found" in failure(server.url, path)
    assert len(server.ranges) == 1
    assert partial_of(path).exists()


def test_a_server_in_trouble_is_tried_again_then_named_with_its_status(serve: Serve, path: Path) -> None:
    server = serve(status(503))
    assert "answered 503 Service Unavailable" in failure(server.url, path)
    assert len(server.ranges) == MAX_ATTEMPTS


def test_a_slow_file_arrives_though_it_takes_longer_than_the_timeout(serve: Serve, path: Path) -> None:
    server = serve(dribbling)
    fetch(server.url, path, timeout_s=0.4)
    assert arrived(path)
    assert server.ranges == [None]


def test_a_silent_server_is_given_up_and_what_came_is_kept(serve: Serve, path: Path) -> None:
    server = serve(stalled)
    assert "timed out" in failure(server.url, path, timeout_s=0.1)
    assert len(server.ranges) == MAX_ATTEMPTS
    assert partial_of(path).read_bytes() == BODY[:HALF]


def test_no_server_at_all_is_one_line(path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    message = failure(f"http://127.0.0.1:{port}/{NAME}", path)
    assert "could not be reached (Connection refused)" in message
    assert "goes on" not in message


def test_no_network_is_one_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    message = failure(f"https://images.example/{NAME}", path)
    assert "could not be reached (Name or service not known)" in message


@pytest.mark.parametrize(
    "address",
    [
        "photos.example/files",
        "ftp://photos.example/files",
        "file:///photos",
        "/photos",
        "http://",
        "http://[::1",
        "http://photos.example:port/files",
        "http://photos.example/my files",
        "http://photos.example/größe",
    ],
)
def test_what_is_no_address_is_a_mistake_in_the_params(address: str, path: Path) -> None:
    with pytest.raises(UserError, match=r"^params\.yaml: dataset\.mirror: ") as raised:
        fetch(address, path)
    assert repr(address) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_ctrl_c_keeps_what_came(serve: Serve, path: Path) -> None:
    def interrupted(handler: Handler) -> None:
        handler.wfile.write(BODY[handler.begin() : HALF])
        deadline = time.monotonic() + 5
        partial = partial_of(path)
        # not as soon as it exists: an interrupt inside open() would leave a file that nobody closes
        while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        handler.server.closing.wait()

    server = serve(interrupted, whole)
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, path)
    kept = partial_of(path).read_bytes()
    assert kept == BODY[: len(kept)]
    fetch(server.url, path)
    assert arrived(path)


def test_a_disk_that_takes_no_more_is_not_taken_for_a_broken_line(serve: Serve, path: Path) -> None:
    server = serve(whole)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, hard))
    try:
        with pytest.raises(OSError) as raised:  # noqa: PT011 - its number is what tells
            fetch(server.url, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.errno == errno.EFBIG
    assert len(server.ranges) == 1
    assert not path.exists()
