"""How a server ends, and why it does not begin: in plain words, never in a traceback."""

import signal
import socket
import time
from pathlib import Path

import pytest

from pipeline.errors import MachineError
from pipeline.service.server import listen
from tests.serving import serving
from tests.tiny_index import build


def test_a_second_ctrl_c_ends_at_once_and_in_plain_words(tmp_path: Path) -> None:
    build(tmp_path / "index", count=8)
    with serving(tmp_path / "index") as server:
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as unfinished:
            unfinished.sendall(b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
            time.sleep(0.3)
            for _ in range(2):
                server.process.send_signal(signal.SIGINT)
                time.sleep(0.3)
            assert unfinished.recv(65536).startswith(b"HTTP/1.1 503 ")
            assert server.process.wait(10) == 0  # `serving` looks for the traceback


@pytest.mark.parametrize(
    ("host", "port", "mend"),
    [
        ("no-such-host.invalid", 8000, "name an address of this machine with --host"),
        ("192.0.2.1", 8000, "name an address of this machine with --host"),
        ("127.0.0.1", None, "choose another --port, or stop what listens there"),
    ],
)
def test_the_mend_is_of_what_is_wrong(host: str, port: int | None, mend: str) -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(MachineError) as refused:
        listen(host, port or taken.getsockname()[1])
    assert str(refused.value).endswith(f": {mend}")
