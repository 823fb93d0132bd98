"""The body of a request, whole and bounded: its bytes, the images of a form, the embeddings of JSON."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from pipeline.service.limits import Limits, Room
from pipeline.service.problems import Problem

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

IMAGE_FIELD = "image"
_MAX_NAME = 255  # characters of a file's name in an answer


@dataclass(frozen=True)
class Upload:
    """An image as it came."""

    name: str
    content: bytes


@asynccontextmanager
async def body_of(request: Request, limits: Limits, room: Room) -> AsyncIterator[bytes]:
    """The whole body; the room that it takes is given back when the block is done.

    Raises:
        Problem: it is longer than `limits.body_bytes`, compressed, or there is no room for it.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "compressed", "a body comes uncompressed: leave Content-Encoding out", close=True)
    said = request.headers.get("content-length")
    if said is not None and int(said) > limits.body_bytes:  # HTTP's parser has seen that it is a number
        raise _too_long(limits)
    with room.bytes() as take:  # as it comes: a promise takes no room
        parts: list[bytes] = []
        num_bytes = 0
        try:
            async for part in request.stream():
                num_bytes += len(part)
                if num_bytes > limits.body_bytes:
                    raise _too_long(limits)
                take(len(part))
                parts.append(part)
        except ClientDisconnect:
            raise Problem(400, "gone", "the client went before its body had come") from None
        yield parts[0] if len(parts) == 1 else b"".join(parts)


def uploads_of(content_type: str, body: bytes, limits: Limits) -> list[Upload]:
    """The images of a multipart form, in their order.

    Raises:
        Problem: it is no such form, or holds something else, too many images or none.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise Problem(
            415, "media type", f"send the images as multipart/form-data, each in a field {IMAGE_FIELD!r}"
        )
    form = _Form(limits.images)
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Problem(
            400, "malformed form", f"the form cannot be read: {' '.join(str(error).split())}"
        ) from None
    if not form.is_whole:
        raise Problem(400, "malformed form", "the form breaks off before its closing boundary")
    if not form.uploads:
        raise Problem(422, "no image", f"the form has no field {IMAGE_FIELD!r}: add an image file")
    return form.uploads


def embeddings_of(body: bytes, dimension: int, limits: Limits) -> NDArray[np.float32]:
    """`{"embeddings": [[...], ...]}` as float32 [Q, D], each of length 1.

    Raises:
        Problem: it is no such JSON, or of other dimensions, not finite, zero, none or too many.
    """
    document = json_of(body, limits)
    if not isinstance(document, dict) or set(document) != {"embeddings"}:
        raise Problem(422, "embeddings", 'send {"embeddings": [[...], ...]} and nothing else')
    rows = document["embeddings"]
    if not isinstance(rows, list) or not 1 <= len(rows) <= limits.images:
        raise Problem(422, "embeddings", f"embeddings are a list of 1 to {limits.images} lists of numbers")
    if not all(isinstance(row, list) and all(type(value) in (int, float) for value in row) for row in rows):
        raise Problem(422, "embeddings", "an embedding is a list of numbers")
    for row in rows:
        if len(row) != dimension:
            raise Problem(
                422, "embeddings", f"an embedding has {len(row)} numbers, the index holds {dimension}"
            )
    try:
        embeddings = np.array(rows, dtype=np.float64)
    except OverflowError:
        embeddings = np.full((1, 1), np.inf)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise Problem(422, "embeddings", "an embedding has no direction: its length is zero or not finite")
    return np.asarray(embeddings / lengths, dtype=np.float32)


def json_of(body: bytes, limits: Limits) -> Any:
    """A body as JSON.

    Raises:
        Problem: it is none, or so long that reading it would keep all others waiting.
    """
    if len(body) > limits.json_bytes:
        raise Problem(
            413, "JSON too long", f"JSON has at most {limits.json_bytes:,} bytes: send less at a time"
        )
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Problem(400, "malformed JSON", f"the body is no JSON: {reason}") from None


@dataclass
class _Form:
    """What the parser has seen so far."""

    max_images: int
    uploads: list[Upload] = field(default_factory=list)
    is_whole: bool = False
    _header: dict[bytes, bytes] = field(default_factory=dict)
    _name: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _parts: list[bytes] = field(default_factory=list)

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self._parts.append(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._header, self._parts = {}, []

    def _end_header(self) -> None:
        self._header[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _end(self) -> None:
        _, options = parse_options_header(self._header.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name != IMAGE_FIELD:
            raise Problem(
                422, "unknown field", f"the form has a field {name[:64]!r}: name it {IMAGE_FIELD!r}"
            )
        if len(self.uploads) == self.max_images:
            raise Problem(413, "too many images", f"a request holds at most {self.max_images} images")
        file = options.get(b"filename", b"").decode("utf-8", "replace")[:_MAX_NAME]
        self.uploads.append(Upload(file or IMAGE_FIELD, b"".join(self._parts)))

    def _finish(self) -> None:
        self.is_whole = True


def _too_long(limits: Limits) -> Problem:
    return Problem(413, "body too long", f"a body has at most {limits.body_bytes:,} bytes", close=True)
