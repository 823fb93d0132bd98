"""What Prometheus is told, and the access log: who asked for what, and how it ended; never an image."""

import logging
from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from pipeline.search.image_index import ImageIndex

_access = logging.getLogger("lookalike.access")

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Telemetry:
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series each, which nobody asks for
        self._requests = Counter(
            "lookalike_requests",
            "Answered, by route, method and status.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self._errors = Counter(
            "lookalike_errors",
            "Refused or failed, by the title of the problem.",
            ["title"],
            registry=self.registry,
        )
        self._latency = Histogram(
            "lookalike_request_seconds",
            "From the headers to the end of the answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._queue = Histogram(
            "lookalike_queue_seconds",
            "That a request waited for its batch.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batch = Histogram(
            "lookalike_batch_images",
            "Images or embeddings of a batch.",
            buckets=_IMAGES,
            registry=self.registry,
        )
        self._images = Counter(
            "lookalike_images",
            "Images and embeddings that were searched for or embedded; its rate is images/s.",
            registry=self.registry,
        )
        self._skipped = Counter(
            "lookalike_skipped", "Requests whose client had gone before their turn.", registry=self.registry
        )
        self._decoder_deaths = Counter(
            "lookalike_decoder_deaths", "Decoding processes that died.", registry=self.registry
        )
        self._size = Gauge("lookalike_index_images", "Images in the index.", registry=self.registry)
        self._generation = Gauge(
            "lookalike_index_generation",
            "1 for the generation that answers now.",
            ["generation"],
            registry=self.registry,
        )
        self._swaps = Counter(
            "lookalike_index_swaps",
            "Generations taken since the start, the first included.",
            registry=self.registry,
        )

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request has ended."""
        self._requests.labels(route, method, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def error(self, title: str) -> None:
        """A problem was sent."""
        self._errors.labels(title).inc()

    def batch(self, num_images: int, waited_s: Sequence[float]) -> None:
        """A batch was taken; see `batching.Watch`."""
        self._batch.observe(num_images)
        self._images.inc(num_images)
        for seconds in waited_s:
            self._queue.observe(seconds)

    def skipped(self) -> None:
        """A client has gone before its turn."""
        self._skipped.inc()

    def decoder_died(self) -> None:
        """A decoding process has ended, or was ended, on an image."""
        self._decoder_deaths.inc()

    def swapped(self, index: ImageIndex) -> None:
        """A generation has become the current one."""
        self._size.set(len(index))
        self._generation.clear()
        self._generation.labels(index.generation).set(1)
        self._swaps.inc()

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


def log_access(request_id: str, client: str, method: str, path: str, status: int, seconds: float) -> None:
    """One line; `path` as it came, percent-encoded, so that it stays one."""
    _access.info('%s %s "%s %s" %d %.1f ms', request_id, client, method, path, status, 1000 * seconds)
