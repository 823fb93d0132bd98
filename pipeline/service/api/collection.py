"""The collection, /v1: what there is to search, its rows, its thumbnails and its encoder."""

import hashlib
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from pipeline.errors import UserError
from pipeline.search.image_index import ImageIndex
from pipeline.service.api import schemas
from pipeline.service.api.answers import as_json
from pipeline.service.api.work import NO_ENCODER, Workshop
from pipeline.service.problems import Problem

_THUMBNAILS_STAY_S = 300
_NO_THUMBNAILS = "this index folder has no thumbnails: set index.thumbnail_size"


def router_of(workshop: Workshop) -> APIRouter:
    """Its routes."""
    router = APIRouter(prefix="/v1", responses=schemas.PROBLEMS, tags=["collection"])

    @router.get("/images", **schemas.IMAGES)
    async def images(
        offset: Annotated[int, Query(ge=0, le=schemas.MAX_ID, description="Images to pass over.")] = 0,
        limit: Annotated[int, Query(ge=1, le=workshop.limits.rows, description="Images to list.")] = 100,
        class_name: schemas.ClassName = None,
        split: schemas.Split = None,
        id_: Annotated[
            int | None, Query(alias="id", ge=0, le=schemas.MAX_ID, description="That image alone.")
        ] = None,
    ) -> Response:
        """Images of the collection in the order of their ids; `total` counts all of the class and split."""
        index = workshop.generations.current
        try:
            if id_ is not None:
                rows, total = [index.row(id_)], 1
            else:
                rows = index.rows(offset, limit, split=split, class_name=class_name)
                total = index.count(split=split, class_name=class_name)
        except UserError as error:
            raise Problem(404, "not found", str(error)) from None
        return as_json({"generation": index.generation, "total": total, "images": rows})

    @router.get("/images/{id}", **schemas.IMAGE)
    async def image(request: Request, id_: schemas.Id, manifest: schemas.Manifest = None) -> Response:
        """The thumbnail of an image, a JPEG."""
        index = workshop.generations.current
        if manifest not in (None, now := _manifest_of(index)):
            raise Problem(404, "another collection", f"the manifest is {now} now: ids name other images")
        try:
            content = index.thumbnail(id_)
        except UserError as error:
            raise Problem(404, "not found", str(error)) from None
        if content is None:
            raise Problem(404, "no thumbnails", _NO_THUMBNAILS)
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"ETag": etag, "Cache-Control": f"private, max-age={_THUMBNAILS_STAY_S}"}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type="image/jpeg", headers=headers)

    @router.get("/collection", **schemas.COLLECTION)
    async def collection() -> Response:
        """What there is to search, and what a request may ask for."""
        return as_json(_described(workshop.generations.current, workshop))

    @router.get("/model", **schemas.MODEL)
    async def model() -> Response:
        """The encoder: what its file says of itself."""
        index = workshop.generations.current
        if not index.has_encoder:
            raise Problem(404, "no encoder", NO_ENCODER)
        encoder = index.encoder
        return as_json(encoder.metadata | {"sha256": encoder.sha256, "provider": encoder.provider})

    return router


def _described(index: ImageIndex, workshop: Workshop) -> dict[str, Any]:
    limits = workshop.limits
    return {
        "generation": index.generation,
        "manifest": _manifest_of(index),
        "count": len(index),
        "classes": index.classes,
        "splits": index.splits,
        "encoder": index.has_encoder,
        "thumbnails": index.card.thumbnail_size > 0,
        "dimension": index.card.dimension,
        "limits": {name: asdict(limits)[name] for name in ("k", "images", "rows", "body_bytes", "pixels")},
    }


def _manifest_of(index: ImageIndex) -> str:
    """Which collection it began with: while it stays an id names the same image, or none.

    But for images that were added to a folder before DVC made it anew: their ids are given again.
    """
    return (index.card.manifest_sha256 or index.card.catalog_sha256)[:12]
