"""A real server for tests: `lookalike serve` in a process of its own, on a free port of loopback."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import requests

from pipeline import ImageIndex
from pipeline.service.app import Service
from pipeline.service.limits import Limits
from pipeline.service.server import listen, run

_STARTS_WITHIN_S = 60.0


@dataclass
class Served:
    """A server that answers.

    Attributes:
        url: of its page, without the last slash.
        process: that serves.
        log: the lines of its stderr, as they come.
    """

    url: str
    process: subprocess.Popen[str]
    log: list[str] = field(default_factory=list)

    def post(self, path: str, **options: object) -> requests.Response:
        """A POST to it."""
        return requests.post(self.url + path, timeout=60, **options)  # type: ignore[arg-type]

    def get(self, path: str, **options: object) -> requests.Response:
        """A GET of it."""
        return requests.get(self.url + path, timeout=60, **options)  # type: ignore[arg-type]

    def search(self, image: Path, **parameters: object) -> requests.Response:
        """A search with a file."""
        return self.post("/v1/search", params=parameters, files=[("image", (image.name, image.read_bytes()))])


def serving(
    index: Path, *options: str, environment: Mapping[str, str] | None = None
) -> AbstractContextManager[Served]:
    """Serves an index folder until the block ends; what it printed on stderr must hold no traceback."""
    command = (sys.executable, "-m", "pipeline.cli.main", "serve", "--index", str(index), "--port", "0")
    return _serving([*command, *options], environment or {})


def serving_within(index: Path, limits: Limits) -> AbstractContextManager[Served]:
    """Serves it within other limits, and with a process that decodes."""
    return _serving([sys.executable, "-m", "tests.serving", str(index), json.dumps(asdict(limits))], {})


@contextmanager
def _serving(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Served]:
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | dict(environment),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    log: list[str] = []
    reader = threading.Thread(target=lambda: log.extend(process.stderr), daemon=True)
    reader.start()
    killer = threading.Timer(_STARTS_WITHIN_S, process.kill)
    killer.start()
    try:
        address = process.stdout.readline().rpartition("at ")[2].strip()
        killer.cancel()
        assert address, "".join(log)
        served = Served(address, process, log)
        yield served
    finally:
        killer.cancel()
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        reader.join(10)
        process.stdout.close()
        process.stderr.close()
    assert not any("Traceback" in line for line in log), "".join(log)


def main(index: str, limits: str) -> None:
    """What `serving_within` starts."""
    folder, sock = Path(index), listen("127.0.0.1", 0)
    service = Service(folder, ImageIndex.open(folder), limits=Limits(**json.loads(limits)), num_decoders=1)
    run(service, sock, lambda: print(f"at http://127.0.0.1:{sock.getsockname()[1]}", flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
