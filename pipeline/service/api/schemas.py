"""What /openapi.json says of bodies and answers; the routes read and write them by hand, to be quick."""

from typing import Annotated, Any

from fastapi import Path, Query

from pipeline.service.problems import MEDIA_TYPE

MAX_ID = 2**63 - 1
_MAX_WORD = 1_000  # characters

ClassName = Annotated[
    str | None, Query(alias="class", max_length=_MAX_WORD, description="Only images of this class.")
]
Manifest = Annotated[
    str | None,
    Query(
        max_length=_MAX_WORD,
        description="Only while the collection has this manifest, and the id this image.",
    ),
]
Id = Annotated[int, Path(alias="id", ge=0, le=MAX_ID, description="Of the image in the collection.")]
Split = Annotated[str | None, Query(max_length=_MAX_WORD, description="Only images of this split.")]

_STRING: dict[str, Any] = {"type": "string"}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_WORD_OR_NULL: dict[str, Any] = {"type": ["string", "null"]}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _answer(description: str, media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": schema}}}


_IMAGE_ROW = {"class_name": _WORD_OR_NULL, "id": _COUNT, "source": _STRING, "split": _STRING}
_NEIGHBOR = _object(rank={"type": "integer", "minimum": 1}, score={"type": "number"}, **_IMAGE_ROW)
_EMBEDDINGS = _list(_list({"type": "number"}))
_FORM = {
    "schema": _object(image={"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}})
}

_PROBLEM = _object(type=_STRING, title=_STRING, status={"type": "integer"}, detail=_STRING)
# every refusal has one form; which ones there are stands in docs/serve.md
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: _answer(description, MEDIA_TYPE, _PROBLEM)
    for status, description in {
        400: "The request is malformed.",
        401: "The token is missing or wrong.",
        403: "A page of another origin asked.",
        404: "There is no such image, split or class, and no thumbnails or encoder in the index folder.",
        409: "The index folder has no encoder: it answers ids and embeddings alone.",
        413: "The body, or the number of images, is above the limit.",
        415: "Not an image that can be read, or a body of another media type.",
        421: "The server does not answer to this host name.",
        422: "A value is missing, of another type or out of range.",
        431: "The head of the request is above the limit.",
        503: "The server is full, or it took too long: Retry-After says when to ask again.",
    }.items()
}


def _operation(answer: dict[str, Any], request_body: dict[str, Any] | None = None) -> dict[str, Any]:
    extra = {"requestBody": {"content": request_body}} if request_body else {}
    # response_model None: what is returned is an answer already
    return {"responses": {200: answer}, "openapi_extra": extra, "response_model": None}


SEARCH = _operation(
    _answer(
        "The neighbours of each query, from the nearest on.",
        "application/json",
        _object(generation=_STRING, answers=_list(_object(query=_STRING, neighbors=_list(_NEIGHBOR)))),
    ),
    {
        "multipart/form-data": _FORM,
        "application/json": {
            "schema": _object(embeddings=_EMBEDDINGS | {"minItems": 1}) | {"additionalProperties": False}
        },
    },
)
EMBED = _operation(
    _answer(
        "One embedding an image, of length 1.",
        "application/json",
        _object(encoder_sha256=_STRING, embeddings=_EMBEDDINGS),
    ),
    {"multipart/form-data": _FORM},
)
EMBED["responses"][200]["content"]["application/x-npy"] = {"schema": {"type": "string", "format": "binary"}}
EMBED["openapi_extra"]["requestBody"]["required"] = True
IMAGES = _operation(
    _answer(
        "Rows of the catalog.",
        "application/json",
        _object(generation=_STRING, total=_COUNT, images=_list(_object(**_IMAGE_ROW))),
    )
)
IMAGE = _operation(_answer("A JPEG.", "image/jpeg", {"type": "string", "format": "binary"}))
IMAGE["responses"][304] = {"description": "It is the one that you have (If-None-Match)."}
_COUNTS = {"type": "object", "additionalProperties": _COUNT}
COLLECTION = _operation(
    _answer(
        "What there is to search.",
        "application/json",
        _object(
            generation=_STRING,
            manifest=_STRING,
            count=_COUNT,
            classes=_COUNTS,
            splits=_COUNTS,
            encoder={"type": "boolean"},
            thumbnails={"type": "boolean"},
            dimension=_COUNT,
            limits=_COUNTS,
        ),
    )
)
MODEL = _operation(
    _answer(
        "The metadata of encoder.onnx.",
        "application/json",
        _object(image_size=_COUNT, feature_dim=_COUNT, sha256=_STRING, provider=_STRING),
    )
)
