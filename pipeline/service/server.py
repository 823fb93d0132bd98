"""The server process: a socket, uvicorn on it, and an end in order."""

import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable

import uvicorn

from pipeline.errors import MachineError
from pipeline.service.app import Service, make_app
from pipeline.service.logs import logging_to_stderr
from pipeline.service.protocol import bounded_by

_BACKLOG = 1_024
_MENDS = {
    errno.EADDRINUSE: "choose another --port, or stop what listens there",
    errno.EACCES: "choose a --port above 1023: those below need a right of their own",
}
_OTHER_HOST = "name an address of this machine with --host"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        MachineError: the port is taken, or the host is none of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        mend = _MENDS.get(error.errno or 0, _OTHER_HOST)
        raise MachineError(f"{host}:{port}: {error.strerror or error}: {mend}") from None
    return sock


def run(service: Service, sock: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serves until SIGTERM or Ctrl-C, and finishes what is under way.

    Args:
        service: what.
        sock: listening.
        on_ready: called when requests are answered.
    """
    config = uvicorn.Config(
        make_app(service),
        http=bounded_by(service.limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(service.limits.request_s) + 1,
    )
    # uvicorn ends by the signal that it was sent; an end in order is a success to who supervises it
    with logging_to_stderr(), contextlib.suppress(KeyboardInterrupt):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        _Server(config, on_ready).run(sockets=[sock])


class _Server(uvicorn.Server):
    """It says when it is ready."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's own."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def num_decoders() -> int:
    """Processes that decode: a core each, up to four."""
    return min(4, len(os.sched_getaffinity(0)))
