"""Refusals as RFC 9457 has them: a title that a program can match, a detail that a person can act on."""

import json
from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
TYPE = "about:blank"  # RFC 9457, section 4.2.1: the title says what it is


class Problem(Exception):  # noqa: N818 - RFC 9457's own name for it
    """A request that is refused.

    Attributes:
        status: of HTTP, 4xx or 5xx.
        title: one word or two that stay the same from one such refusal to the next.
        detail: what, the rule, and the mend.
        headers: that go with it.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        retry_after: int | None = None,
        close: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail = status, title, detail
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)
        if close:
            # the rest of the body is still to come, and is not waited for
            self.headers["Connection"] = "close"


def response(problem: Problem, speaks_v2: bool = False) -> Response:
    """The document of a refusal; the Open Inference Protocol has one of its own."""
    if speaks_v2:
        content = json.dumps({"error": problem.detail})
        return Response(content, problem.status, headers=problem.headers, media_type="application/json")
    document = {
        "type": TYPE,
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
    }
    return Response(json.dumps(document), problem.status, headers=problem.headers, media_type=MEDIA_TYPE)


def of_status(status: int, detail: str, headers: Mapping[str, str] | None) -> Problem:
    """A refusal that HTTP itself has a phrase for."""
    return Problem(status, HTTPStatus(status).phrase.lower(), detail, headers=headers)


def failed() -> Problem:
    """That the server is at fault."""
    return Problem(500, "failed", "the server failed; its log says more, under the answer's X-Request-Id")
