"""HTTP/1.1 as uvicorn speaks it, with a bound on the head of a request and on the time it may take."""

import asyncio
import json
from typing import Any

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

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
    _running: RequestResponseCycle | None = None
    _written = 0.0  # when what may still be unread was
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(FULL, "full", f"{self.limits.connections:,} connections are open: ask again later")
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._leave()
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

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.pipeline and self.cycle.more_body and not self.transport.is_closing():
            self.transport.close()  # it was refused before its body had come, and nobody waits for the rest
        if self.transport.get_write_buffer_size():
            self._watch_reader()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

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

    def _watch_reader(self) -> None:
        """A client has the time of a request to read what was last written to it."""
        self._written = self.loop.time()
        self.loop.call_later(self.limits.request_s, self._abort_if_unread, self._written)

    def _abort_if_unread(self, written: float) -> None:
        if written == self._written and self.transport.get_write_buffer_size():
            self._leave()
            self.transport.abort()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _leave(self) -> None:
        """Tells the request that is answered now; uvicorn tells the last that came, which may wait behind."""
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

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
