"""The encoder through the Open Inference Protocol, asked by Triton's own client, unchanged."""

import json
from pathlib import Path

import numpy as np
import pytest
import requests
from numpy.typing import NDArray

from pipeline import Encoder
from pipeline.artifacts import Artifacts
from tests.serving import Served

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pixels(small_chain: Path) -> NDArray[np.uint8]:
    return np.array(Artifacts(small_chain / "data").read_images("test")[:7])


@pytest.fixture(scope="module")
def expected(small_chain: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return Encoder.open(small_chain / "data/encoder/encoder.onnx")(pixels)


@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("binary_output", [True, False, None])
def test_tritons_client_embeds(
    served: Served,
    pixels: NDArray[np.uint8],
    expected: NDArray[np.float32],
    binary_input: bool,
    binary_output: bool | None,
) -> None:
    from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

    client = InferenceServerClient(served.url.removeprefix("http://"))
    images = InferInput("images", list(pixels.shape), "UINT8")
    images.set_data_from_numpy(pixels, binary_data=binary_input)
    wanted = None if binary_output is None else [InferRequestedOutput("embeddings", binary_output)]
    answer = client.infer("encoder", [images], outputs=wanted, request_id="mine")
    np.testing.assert_allclose(answer.as_numpy("embeddings"), expected, atol=1e-5)
    assert answer.get_response()["id"] == "mine"
    assert answer.get_response()["model_name"] == "encoder"
    client.close()


def test_tritons_client_finds_the_model_and_its_health(served: Served, pixels: NDArray[np.uint8]) -> None:
    from tritonclient.http import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    client = InferenceServerClient(served.url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("encoder")
    assert client.is_model_ready("encoder", "1")
    assert not client.is_model_ready("another")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata("encoder", "1")
    assert metadata["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, *pixels.shape[1:]]}]
    assert metadata["outputs"][0]["name"] == "embeddings"
    with pytest.raises(InferenceServerException, match="Not Found"):
        client.get_model_metadata("another")
    client.close()


def test_an_async_client_asks_many_times_at_once(
    served: Served, pixels: NDArray[np.uint8], expected: NDArray[np.float32]
) -> None:
    from tritonclient.http import InferenceServerClient, InferInput

    client = InferenceServerClient(served.url.removeprefix("http://"), concurrency=8)
    under_way = []
    for row in list(range(len(pixels))) * 5:
        images = InferInput("images", [1, *pixels.shape[1:]], "UINT8")
        images.set_data_from_numpy(pixels[row : row + 1])
        under_way.append((row, client.async_infer("encoder", [images])))
    for row, answer in under_way:
        np.testing.assert_allclose(answer.get_result().as_numpy("embeddings")[0], expected[row], atol=1e-5)
    client.close()


def body_with(**changes: object) -> dict[str, object]:
    """A request of one black image with some keys of its input changed."""
    given = {"name": "images", "datatype": "UINT8", "shape": [1, 28, 28, 3], "data": [0] * 28 * 28 * 3}
    return {"inputs": [given | changes]}


def test_the_rules_of_the_protocol(served: Served, pixels: NDArray[np.uint8]) -> None:
    size = pixels.shape[1]
    nested = {"shape": [1, size, size, 3], "data": pixels[:1].tolist()}
    flat = {"shape": [1, size, size, 3], "data": pixels[0].ravel().tolist()}
    answers = [
        served.post("/v2/models/encoder/infer", json=body_with(**each)).json() for each in (nested, flat)
    ]
    assert answers[0] == answers[1]
    assert answers[0]["outputs"][0]["shape"][0] == 1
    assert "id" not in answers[0]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"inputs": []}',
        json.dumps(body_with(name="pixels")).encode(),
        json.dumps(body_with(datatype="FP32")).encode(),
        json.dumps(body_with(shape=[1, 2, 2, 3], data=[0] * 12)).encode(),
        json.dumps(body_with(shape=[0, 28, 28, 3], data=[])).encode(),
        json.dumps(body_with(shape=[10**9, 28, 28, 3])).encode(),
        json.dumps(body_with(shape=[True, 28, 28, 3])).encode(),
        json.dumps(body_with(data=[256] * 28 * 28 * 3)).encode(),
        json.dumps(body_with(data=[0.5] * 28 * 28 * 3)).encode(),
        json.dumps(body_with(data=[[0], 1])).encode(),
        json.dumps(body_with(data="black")).encode(),
        json.dumps(body_with(parameters={"binary_data_size": 28 * 28 * 3})).encode(),
        json.dumps(body_with(parameters=[])).encode(),
        json.dumps(body_with() | {"outputs": [{"name": "logits"}]}).encode(),
        json.dumps(body_with() | {"outputs": "all"}).encode(),
        json.dumps(body_with() | {"parameters": {"binary_data_output": "yes"}}).encode(),
    ],
)
def test_what_is_no_request_of_the_protocol_is_its_error(served: Served, body: bytes) -> None:
    answer = served.post("/v2/models/encoder/infer", data=body)
    assert answer.status_code == 400, answer.text
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize("length", ["-1", "many", "999999", "3", "9" * 5_000])
def test_a_lying_header_length_is_an_error(served: Served, length: str) -> None:
    answer = requests.post(
        f"{served.url}/v2/models/encoder/infer",
        data=json.dumps(body_with()),
        headers={"Inference-Header-Content-Length": length},
        timeout=30,
    )
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
