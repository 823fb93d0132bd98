"""The search API, /v1: images, ids or embeddings in, neighbours out."""

import io
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from numpy.typing import NDArray

from pipeline.search.image_index import ImageIndex
from pipeline.service.api import schemas
from pipeline.service.api.answers import as_json
from pipeline.service.api.bodies import Upload, body_of, embeddings_of, uploads_of
from pipeline.service.api.work import Workshop
from pipeline.service.batching import Ask
from pipeline.service.problems import Problem

_NPY = "application/x-npy"


def router_of(workshop: Workshop) -> APIRouter:
    """Its routes."""
    router = APIRouter(prefix="/v1", responses=schemas.PROBLEMS, tags=["search"])
    limits = workshop.limits

    @router.post("/search", **schemas.SEARCH)
    async def search(
        request: Request,
        id_: Annotated[
            int | None,
            Query(alias="id", ge=0, le=schemas.MAX_ID, description="An image of the collection to ask with."),
        ] = None,
        k: Annotated[int, Query(ge=1, le=limits.k, description="How many neighbours of each.")] = 10,
        class_name: schemas.ClassName = None,
        split: schemas.Split = None,
        min_score: Annotated[
            float | None,
            Query(ge=-1, le=1, description="Only neighbours with at least this cosine similarity."),
        ] = None,
    ) -> Response:
        """The images of the collection that look most alike, as `lookalike query --json` gives them."""
        index = workshop.generations.current
        ask = Ask(k, split, class_name, min_score)
        async with body_of(request, limits, workshop.room) as body:
            names, asked = _asked(request, body, id_, index, workshop)
            with workshop.room.images(len(asked)):
                queries = await workshop.pixels(asked, index) if isinstance(asked, list) else asked
                answers = await workshop.done(request, index, queries, ask)
        return as_json(
            {
                "generation": index.generation,
                "answers": [
                    {"query": name, "neighbors": [vars(neighbor) for neighbor in answer]}
                    for name, answer in zip(names, answers, strict=True)
                ],
            }
        )

    @router.post("/embed", **schemas.EMBED)
    async def embed(request: Request) -> Response:
        """The embeddings of images, as JSON or, with `Accept: application/x-npy`, as a .npy file."""
        index = workshop.generations.current
        async with body_of(request, limits, workshop.room) as body:
            uploads = uploads_of(request.headers.get("content-type", ""), body, limits)
            with workshop.room.images(len(uploads)):
                pixels = await workshop.pixels(uploads, index)
                embeddings = await workshop.done(request, index, pixels, None)
        if _NPY in request.headers.get("accept", ""):
            file = io.BytesIO()
            np.save(file, embeddings)
            return Response(file.getvalue(), media_type=_NPY)
        return as_json({"encoder_sha256": index.encoder.sha256, "embeddings": embeddings.tolist()})

    return router


def _asked(
    request: Request, body: bytes, id_: int | None, index: ImageIndex, workshop: Workshop
) -> "tuple[list[str], list[Upload] | NDArray[np.int64] | NDArray[np.float32]]":
    """The queries' names, and they themselves: uploads, ids or embeddings."""
    if id_ is not None:
        if body:
            raise Problem(422, "two questions", "ask with an id or with a body, not with both")
        return [str(id_)], np.array([id_], dtype=np.int64)
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() == "application/json":
        embeddings = embeddings_of(body, index.card.dimension, workshop.limits)
        return [str(number) for number in range(len(embeddings))], embeddings
    uploads = uploads_of(kind, body, workshop.limits)
    return [upload.name for upload in uploads], uploads
