"""HTTP/1.1 as uvicorn speaks it, with a bound on the head of a request and on the time it may take."""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from pipeline.service import problems
from pipeline.service.limits import FULL, RETRY_AFTER_S, Limits


def bounded_by(limits: Limits) -> type[HttpToolsProtocol]:
    """The protocol class of a server with these limits."""
    return type("Bounded", (_Bounded,), {"limits": limits})


class _Bounded(HttpToolsProtocol):
    """Of one connection."""

    limits: Limits
    _head_bytes = 0  # since the last head ended
    _counted = 0  # of this head, as parsed
    _has_head = False
    _is_too_long = False
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(FULL, "full", f"{self.limits.connections:,} connections are open: ask again later")
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._has_head:
            if self._head_timer is None:
                self._await_head()
            if self._head_bytes > self.limits.header_bytes:
                self._is_too_long = True
                self.send_400_response("")
                return
            # what comes with the end of the head may be a body: it is counted at the next read
            self._head_bytes += len(data)
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        # ASGI tells of a client that has gone only to who waits for it, which costs a task a request
        self.scope["state"]["has_gone"] = self.transport.is_closing

    def on_url(self, url: bytes) -> None:
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(name + value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._has_head = True
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._has_head, self._head_bytes, self._counted = False, 0, 0

    def send_400_response(self, msg: str) -> None:
        if self._is_too_long:
            self._refuse(431, "headers too long", f"a head has at most {self.limits.header_bytes:,} bytes")
        else:
            self._refuse(400, "malformed request", "this is no HTTP/1.1 that can be read")

    def _count(self, part: bytes) -> None:
        self._counted += len(part)
        if self._counted > self.limits.header_bytes:
            self._is_too_long = True
            raise ValueError("headers too long")  # the parser ends in send_400_response

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.header_s, self._close_if_headless)

    def _close_if_headless(self) -> None:
        if not self._has_head and not self.transport.is_closing():
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int, title: str, detail: str) -> None:
        document = {"type": problems.TYPE, "title": title, "status": status, "detail": detail}
        body = json.dumps(document).encode()
        head = f"content-type: {problems.MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
        if status == FULL:
            head += f"retry-after: {RETRY_AFTER_S}\r\n"
        self.transport.write(STATUS_LINE[status] + head.encode() + b"\r\n" + body)
        self.transport.close()
