"""The application: its routes, put together."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from pipeline.search.image_index import ImageIndex
from pipeline.service import problems
from pipeline.service.api import collection, inference, search
from pipeline.service.api.work import Workshop
from pipeline.service.batching import Batcher
from pipeline.service.decoding import Decoders
from pipeline.service.generations import Generations
from pipeline.service.guards import Access, Guard
from pipeline.service.limits import Limits, Room
from pipeline.service.problems import Problem
from pipeline.service.telemetry import Telemetry

if TYPE_CHECKING:
    from pipeline.params.section import Device  # a type alone: a server reads no params.yaml

_WEB = Path(__file__).parent / "web"
_PAGES = {"/": "index.html", "/docs": "api.html"}


@dataclass(frozen=True)
class Service:
    """What is served.

    Attributes:
        folder: of the index, watched.
        index: it, open.
        device: what its next encoder runs on.
        access: who may ask.
        limits: and for how much.
        num_decoders: processes that decode.
    """

    folder: Path
    index: ImageIndex
    device: "Device" = "auto"
    access: Access = field(default_factory=Access)
    limits: Limits = field(default_factory=Limits)
    num_decoders: int = 2


def make_app(service: Service) -> ASGIApp:
    """The application, ready to be run by an ASGI server with its lifespan."""
    telemetry = Telemetry()
    workshop = Workshop(
        Generations(service.folder, service.device, service.index, telemetry.swapped),
        Decoders(service.limits, telemetry.decoder_died),
        Batcher(service.limits.batch_images, telemetry),
        service.limits,
        Room(service.limits),
        telemetry,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        workshop.decoders.start(service.num_decoders)
        workshop.batcher.start()
        workshop.generations.start()
        try:
            yield
        except asyncio.CancelledError:
            pass  # the second Ctrl-C: uvicorn waits for nothing, and Starlette would write a traceback
        finally:
            await workshop.generations.stop()
            await workshop.decoders.stop()
            await workshop.batcher.stop()

    app = FastAPI(
        title="Lookalike",
        version=version("lookalike"),
        description="Finds the images of a collection that look alike.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load their scripts from another host
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(search.router_of(workshop))
    app.include_router(collection.router_of(workshop))
    app.include_router(inference.router_of(workshop))
    _add_pages(app, telemetry)
    _add_refusals(app, telemetry)
    return Guard(app, service.access, service.limits, telemetry)


def _add_pages(app: FastAPI, telemetry: Telemetry) -> None:
    """The page, its files, and the figures for Prometheus."""

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(telemetry.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    # by name, from what is there: no path of a request reaches a file
    files = {f"/web/{path.name}": path for path in sorted(_WEB.iterdir()) if path.is_file()}
    files |= {path: _WEB / name for path, name in _PAGES.items()}
    for route, path in files.items():
        app.add_api_route(route, _file(path), methods=["GET", "HEAD"], include_in_schema=False)


def _file(path: Path) -> Callable[[], Awaitable[Response]]:
    async def file() -> Response:
        return FileResponse(path, headers={"Cache-Control": "no-cache"})

    return file


def _add_refusals(app: FastAPI, telemetry: Telemetry) -> None:
    """Every refusal is told in one form, whoever makes it."""

    def refused(request: Request, problem: Problem) -> Response:
        telemetry.error(problem.title)
        return problems.response(problem, speaks_v2=request.url.path.startswith("/v2"))

    @app.exception_handler(Problem)
    async def of_ours(request: Request, problem: Any) -> Response:
        return refused(request, problem)

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: Any) -> Response:
        return refused(request, problems.of_status(error.status_code, str(error.detail), error.headers))

    @app.exception_handler(RequestValidationError)
    async def of_values(request: Request, error: Any) -> Response:
        said = (
            f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg'][:1].lower()}{each['msg'][1:]}"
            for each in error.errors()
        )
        return refused(request, Problem(422, "wrong value", "; ".join(said)))

    @app.exception_handler(Exception)
    async def of_bugs(request: Request, _: Exception) -> Response:
        return refused(request, problems.failed())  # it goes on to the guard, which logs it
