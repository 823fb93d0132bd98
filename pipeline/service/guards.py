"""What stands before every request: the token, the hosts and origins, the time it has, and what it is told.

One layer of ASGI, since each costs every request its share.
"""

import asyncio
import hmac
import logging
import random
import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.service import problems
from pipeline.service.limits import Limits, ending, late
from pipeline.service.problems import Problem
from pipeline.service.telemetry import Telemetry, log_access

_log = logging.getLogger("lookalike.service")

# Nothing inline, nothing from elsewhere; blob: and data: are pictures that the page itself made.
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"geolocation=(), microphone=(), camera=(self)"),
]
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Without the token: the empty page, which asks for it, and whether the server lives.
_OPEN_PATHS = ("/", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready")
_OPEN_FOLDER = "/web/"
_LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        token: that a request must bear; None: none.
        loopback_only: the server is on loopback without a token: a page from elsewhere must not reach it
            through a name of its own that leads there (DNS rebinding).
    """

    token: str | None = None
    loopback_only: bool = True


class Guard:
    """The application, guarded."""

    def __init__(self, app: ASGIApp, access: Access, limits: Limits, telemetry: Telemetry) -> None:
        self._app, self._access, self._limits, self._telemetry = app, access, limits, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's own signature."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        try:
            headers = dict(scope["headers"])
            answer.request_id = _request_id(headers)
            self._check(scope, headers)
            async with asyncio.timeout(self._limits.request_s):
                await self._app(scope, receive, answer.send)
        except Problem as problem:
            await self._refuse(answer, receive, problem)
        except TimeoutError:
            await self._refuse(answer, receive, late(self._limits))
        except asyncio.CancelledError:  # at a second Ctrl-C, or where an end in order takes too long
            await self._refuse(answer, receive, ending())
        except Exception:
            _log.exception("request %s: %s", answer.request_id, scope["path"])
            await self._refuse(answer, receive, problems.failed())
        finally:
            self._note(scope, answer)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        host = _host_of(headers.get(b"host", b""))
        if self._access.loopback_only and host not in _LOOPBACK_HOSTS:
            raise Problem(421, "unknown host", "this server answers to localhost alone: ask it by that name")
        origin = headers.get(b"origin")
        if origin is not None and _host_and_port(origin) != headers.get(b"host", b"").decode("latin-1"):
            raise Problem(403, "cross-origin", "pages of other origins may not ask this server", close=True)
        if self._access.token is None or _is_open(scope["path"]):
            return
        wanted = f"Bearer {self._access.token}".encode()
        if not hmac.compare_digest(headers.get(b"authorization", b""), wanted):
            raise Problem(
                401,
                "no token",
                "send the header 'Authorization: Bearer TOKEN' with the server's token",
                close=True,
                headers={"WWW-Authenticate": 'Bearer realm="lookalike"'},
            )

    async def _refuse(self, answer: "_Answer", receive: Receive, problem: Problem) -> None:
        if answer.status is not None:
            return  # its head is out: the connection is closed by the server, short of its length
        self._telemetry.error(problem.title)
        speaks_v2 = answer.scope["path"].startswith("/v2")
        await problems.response(problem, speaks_v2)(answer.scope, receive, answer.send)

    def _note(self, scope: Scope, answer: "_Answer") -> None:
        seconds = time.perf_counter() - answer.began
        status = answer.status or 499  # nginx's own for a client that has gone
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD") else "other"
        self._telemetry.request(route, method, status, seconds)
        client = scope["client"][0] if scope.get("client") else "-"
        path = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        log_access(
            answer.request_id, client, method, path.decode("ascii", "backslashreplace"), status, seconds
        )


class _Answer:
    """An answer under way: it gets the headers of all."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope, self._send = scope, send
        self.began = time.perf_counter()
        self.request_id = ""
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        """ASGI's own signature."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers: list[Any] = [*message.get("headers", ()), *_HEADERS]
            headers.append((b"x-request-id", self.request_id.encode()))
            if not any(name == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-store"))
            message["headers"] = headers
        await self._send(message)


def _is_open(path: str) -> bool:
    return path in _OPEN_PATHS or path.startswith(_OPEN_FOLDER)


def _request_id(headers: dict[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(64):016x}"


def _host_of(host: bytes) -> str | None:
    try:
        return urlsplit(f"//{host.decode('latin-1')}").hostname
    except ValueError:
        return None


def _host_and_port(origin: bytes) -> str | None:
    try:
        return urlsplit(origin.decode("latin-1")).netloc
    except ValueError:
        return None
