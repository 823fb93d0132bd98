"""The service beside a bare loop of onnxruntime and FAISS on the same images, on the same machine.

    python -m benchmarks.serve
    python -m benchmarks.serve --index data/index --images data/images/test.npy --searches 20000 --clients 64

The loop is given ready pixels in batches of 64 and names nothing; the service is given files over HTTP, one
a request, by clients that ask again when they are answered. Both sides run in one go, the loop before and
after; clients and service share the cores.
"""

import argparse
import asyncio
import io
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline import Encoder

K = 10
BATCH = 64
BOUNDARY = b"lookalike-boundary"


@dataclass
class Load:
    """What clients saw.

    Attributes:
        latencies: of each answer, in seconds.
        failures: whatever was not an answer.
    """

    latencies: list[float] = field(default_factory=list)
    failures: list[bytes] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)


def bare_loop(encoder: Encoder, index: faiss.Index, pixels: NDArray[np.uint8], seconds: float) -> float:
    """Searches/s of the encoder and the index in batches."""
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        rows = np.arange(done, done + BATCH) % len(pixels)
        index.search(encoder(pixels[rows]), K)
        done += BATCH
    return done / (time.perf_counter() - started)


def request_of(pixels: NDArray[np.uint8], kind: str) -> bytes:
    """A search for one image, as it goes over the wire."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    body = (
        b"--%s\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\n" % BOUNDARY
        + file.getvalue()
        + b"\r\n--%s--\r\n" % BOUNDARY
    )
    head = b"POST /v1/search?k=%d HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Content-Type: multipart/form-data; boundary=%s\r\n"
    return head % (K, BOUNDARY) + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Client(asyncio.Protocol):
    """One connection: it asks, waits for the answer and asks again."""

    def __init__(self, requests: list[bytes], queue: list[int], load: Load, done: asyncio.Event) -> None:
        self.requests, self.queue, self.load, self.done = requests, queue, load, done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.received, self.length = b"", -1
        if not self.queue:
            self.transport.close()
            self.done.set()
            return
        self.began = time.perf_counter()
        self.transport.write(self.requests[self.queue.pop() % len(self.requests)])

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.length < 0:
            head, found, _ = self.received.partition(b"\r\n\r\n")
            if not found:
                return
            length = re.search(rb"content-length: (\d+)", head)
            self.length = len(head) + 4 + int(length[1]) if length else 0
        if len(self.received) < self.length:
            return
        self.load.latencies.append(time.perf_counter() - self.began)
        is_answer = self.received.startswith(b"HTTP/1.1 200") and b'"rank": 10' in self.received
        if not is_answer:
            self.load.failures.append(self.received[:200])
        self.ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.is_set():
            self.load.failures.append(b"the connection was lost")
            self.done.set()


async def load_of(port: int, requests: list[bytes], num_searches: int, num_clients: int, pid: int) -> Load:
    """So many searches by so many clients."""
    load, queue = Load(), list(range(num_searches))
    events = [asyncio.Event() for _ in range(num_clients)]
    loop = asyncio.get_running_loop()
    for event in events:
        await loop.create_connection(
            lambda event=event: Client(requests, queue, load, event), "127.0.0.1", port
        )
    watch = asyncio.create_task(_watch(load, num_searches, pid))
    await asyncio.gather(*(event.wait() for event in events))
    watch.cancel()
    load.memory.append(memory_of(pid))
    return load


async def _watch(load: Load, num_searches: int, pid: int) -> None:
    """Notes the memory when a tenth is done."""
    while len(load.latencies) < num_searches // 10:
        await asyncio.sleep(0.05)
    load.memory.append(memory_of(pid))


def memory_of(pid: int) -> int:
    """Resident bytes of a process and its children, each page counted where it is shared by its share."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    total = 0
    for process in (str(pid), *children):
        found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.M)
        total += 1024 * int(found[1]) if found else 0
    return total


def start(index: Path) -> tuple[subprocess.Popen[str], int, float]:
    """The service, its port, and the seconds until its first answer."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "pipeline.cli.main", "serve", "--index", str(index), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    port = int(process.stdout.readline().rpartition(":")[2])
    return process, port, began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--index", type=Path, default=Path("data/index"))
    parser.add_argument("--images", type=Path, default=Path("data/images/test.npy"))
    parser.add_argument("--searches", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--kind", default="JPEG", help="what the clients send: JPEG or PNG")
    asked = parser.parse_args()
    pixels = np.array(np.load(asked.images, mmap_mode="r")[:1_000])
    loop = (
        Encoder.open(asked.index / "encoder.onnx"),
        faiss.read_index(str(asked.index / "images.faiss")),
        pixels,
    )
    requests = [request_of(each, asked.kind) for each in pixels]
    before = bare_loop(*loop, 5.0)
    process, port, began = start(asked.index)
    try:
        first = asyncio.run(load_of(port, requests, 1, 1, process.pid))
        print(f"start to first answer   {time.perf_counter() - began:.2f} s")
        assert not first.failures, first.failures
        alone = asyncio.run(load_of(port, requests, 300, 1, process.pid))
        print(f"alone, a search         {1000 * np.median(alone.latencies):.1f} ms at the median")
        started = time.perf_counter()
        load = asyncio.run(load_of(port, requests, asked.searches, asked.clients, process.pid))
        rate = asked.searches / (time.perf_counter() - started)
    finally:
        process.terminate()
        process.wait()
    after = bare_loop(*loop, 5.0)
    bare = (before + after) / 2
    p50, p99 = 1000 * np.percentile(load.latencies, [50, 99])
    print(f"bare loop               {before:,.0f} and {after:,.0f} searches/s")
    print(f"service                 {rate:,.0f} searches/s: {100 * rate / bare:.0f} % of it")
    print(f"{asked.clients} clients              p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    print(
        f"{asked.searches:,} searches         {len(load.latencies):,} answered, {len(load.failures)} failed"
    )
    tenth, end = (each / 2**20 for each in load.memory)
    print(
        f"memory                  {tenth:.0f} MiB after a tenth, {end:.0f} at the end; {os.cpu_count()} cores"
    )
    if load.failures:
        sys.exit(f"failed: {load.failures[0]!r}")


if __name__ == "__main__":
    main()
