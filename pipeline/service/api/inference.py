"""The Open Inference Protocol, version 2, over HTTP: the encoder for clients of Triton, KServe and MLServer.

JSON, and the binary tensor extension: behind the JSON header, whose length `Inference-Header-Content-Length`
says, the tensors' bytes follow in the order of the inputs.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md, and
Triton's docs/protocol/extension_binary_data.md.
"""

import json
from importlib.metadata import version as version_of
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from numpy.typing import NDArray

from pipeline.encoder.runtime import INPUT_NAME, OUTPUT_NAME, Encoder
from pipeline.search.image_index import ImageIndex
from pipeline.service.api.answers import as_json
from pipeline.service.api.bodies import body_of, json_of
from pipeline.service.api.work import NO_ENCODER, Workshop
from pipeline.service.limits import Limits
from pipeline.service.problems import Problem

MODEL = "encoder"
VERSION = "1"
_MAX_DIGITS = 12  # Python refuses to read some thousands
_HEADER_LENGTH = "inference-header-content-length"


def router_of(workshop: Workshop) -> APIRouter:
    """Its routes; they stand in no OpenAPI page, since the protocol has its own specification."""
    router = APIRouter(prefix="/v2", include_in_schema=False)

    @router.get("")
    async def server() -> Response:
        return as_json(
            {"name": "lookalike", "version": version_of("lookalike"), "extensions": ["binary_tensor_data"]}
        )

    @router.get("/health/live")
    async def live() -> Response:
        return as_json({"live": True})

    @router.get("/health/ready")
    async def ready() -> Response:
        return as_json({"ready": True})

    for path in (f"/models/{MODEL}", f"/models/{MODEL}/versions/{VERSION}"):

        @router.get(path)
        async def metadata() -> Response:
            return as_json(_metadata(_encoder_of(workshop.generations.current)))

        @router.get(f"{path}/ready")
        async def model_ready() -> Response:
            _encoder_of(workshop.generations.current)
            return as_json({"name": MODEL, "ready": True})

        @router.post(f"{path}/infer")
        async def infer(request: Request) -> Response:
            return await _infer(request, workshop)

    return router


def _encoder_of(index: ImageIndex) -> Encoder:
    if not index.has_encoder:
        raise Problem(404, "no encoder", f"there is no model {MODEL!r}: {NO_ENCODER}")
    return index.encoder


def _metadata(encoder: Encoder) -> dict[str, Any]:
    size = encoder.image_size
    return {
        "name": MODEL,
        "versions": [VERSION],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": INPUT_NAME, "datatype": "UINT8", "shape": [-1, size, size, 3]}],
        "outputs": [{"name": OUTPUT_NAME, "datatype": "FP32", "shape": [-1, encoder.dim]}],
    }


async def _infer(request: Request, workshop: Workshop) -> Response:
    index = workshop.generations.current
    encoder = _encoder_of(index)
    async with body_of(request, workshop.limits, workshop.room) as body:
        header, tensors = _split(request, body, workshop.limits)
        pixels = _images_of(header, tensors, encoder, workshop.limits.images)
        is_binary = _is_output_binary(header)
        with workshop.room.images(len(pixels)):
            embeddings = await workshop.done(request, index, pixels, None)
    return _answer(header.get("id"), np.ascontiguousarray(embeddings, dtype="<f4"), is_binary)


def _split(request: Request, body: bytes, limits: Limits) -> tuple[dict[str, Any], bytes]:
    """The JSON header and the bytes behind it."""
    said = request.headers.get(_HEADER_LENGTH)
    length = len(body)
    if said is not None:
        if not said.isdecimal() or len(said) > _MAX_DIGITS or int(said) > len(body):
            raise _malformed(
                f"Inference-Header-Content-Length is {said[:32]!r}, the body has {len(body)} bytes"
            )
        length = int(said)
    header = json_of(body[:length], limits)
    if not isinstance(header, dict):
        raise _malformed("the request is no JSON object")
    return header, body[length:]


def _images_of(
    header: dict[str, Any], tensors: bytes, encoder: Encoder, max_images: int
) -> NDArray[np.uint8]:
    """The one input, uint8 [B, H, W, 3]."""
    inputs = header.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _malformed(f"the model has one input, {INPUT_NAME!r}: send just that")
    (given,) = inputs
    size = encoder.image_size
    if given.get("name") != INPUT_NAME or given.get("datatype") != "UINT8":
        raise _malformed(f"the input is {INPUT_NAME!r} of datatype UINT8")
    shape = given.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) != 4
        or not all(type(length) is int for length in shape)
        or shape[1:] != [size, size, 3]
        or not 1 <= shape[0] <= max_images
    ):
        raise _malformed(f"the shape is [B, {size}, {size}, 3], B from 1 to {max_images}")
    count = shape[0] * size * size * 3
    parameters = _parameters(given)
    if "binary_data_size" in parameters:
        num_bytes = parameters["binary_data_size"]
        if num_bytes != count or len(tensors) != count:
            raise _malformed(
                f"{num_bytes} bytes are said and {len(tensors)} follow, the shape asks for {count}"
            )
        return np.frombuffer(tensors, dtype=np.uint8).reshape(shape)
    if tensors:
        raise _malformed("bytes follow the header, but the input has no binary_data_size")
    return _from_json(given.get("data"), count).reshape(shape)


def _from_json(data: Any, count: int) -> NDArray[np.uint8]:
    """Nested as the shape says, or flat."""
    flat: list[Any] = data if isinstance(data, list) else []
    while flat and isinstance(flat[0], list):
        if not all(isinstance(row, list) for row in flat):
            raise _malformed("data is nested unevenly")
        flat = [value for row in flat for value in row]
    if len(flat) != count or not all(type(value) is int and 0 <= value <= 255 for value in flat):
        raise _malformed(f"data are {count} whole numbers from 0 to 255")
    return np.array(flat, dtype=np.uint8)


def _is_output_binary(header: dict[str, Any]) -> bool:
    outputs = header.get("outputs", [])
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise _malformed("outputs are a list of objects")
    if any(output.get("name") != OUTPUT_NAME for output in outputs) or len(outputs) > 1:
        raise _malformed(f"the model has one output, {OUTPUT_NAME!r}")
    wanted = _parameters(header).get("binary_data_output", False)
    for output in outputs:
        wanted = _parameters(output).get("binary_data", wanted)
    if not isinstance(wanted, bool):
        raise _malformed("binary_data and binary_data_output are true or false")
    return wanted


def _parameters(of: dict[str, Any]) -> dict[str, Any]:
    parameters = of.get("parameters", {})
    if not isinstance(parameters, dict):
        raise _malformed("parameters are an object")
    return parameters


def _answer(id_: Any, embeddings: NDArray[np.float32], is_binary: bool) -> Response:
    output: dict[str, Any] = {"name": OUTPUT_NAME, "datatype": "FP32", "shape": list(embeddings.shape)}
    document = {"model_name": MODEL, "model_version": VERSION, "outputs": [output]}
    if isinstance(id_, str):
        document["id"] = id_
    if not is_binary:
        output["data"] = embeddings.ravel().tolist()
        return as_json(document)
    tensor = embeddings.tobytes()
    output["parameters"] = {"binary_data_size": len(tensor)}
    header = json.dumps(document).encode()
    return Response(
        header + tensor,
        media_type="application/octet-stream",
        headers={"Inference-Header-Content-Length": str(len(header))},
    )


def _malformed(detail: str) -> Problem:
    return Problem(400, "malformed inference request", detail)
