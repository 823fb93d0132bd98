"""The model repository for Triton: what its own parser and ONNX's read in the two files is the same."""

from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

from benchmarks.index.changes import write_encoder
from pipeline.encoder.triton import config, export_triton
from pipeline.errors import UserError
from tests.processes import fails, run_lookalike

SIZE, DIM = 20, 12
TYPES = {TensorProto.UINT8: DataType.TYPE_UINT8, TensorProto.FLOAT: DataType.TYPE_FP32}


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    write_encoder(tmp_path / "encoder.onnx", DIM, SIZE)
    return tmp_path / "encoder.onnx"


def parsed(text: str) -> ModelConfig:
    """As Triton reads it; a field that it does not know is an error."""
    return text_format.Parse(text, ModelConfig())


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_the_config_is_that_of_the_graph(encoder: Path, tmp_path: Path) -> None:
    done = run_lookalike(
        "export-triton", "models", "--encoder", "encoder.onnx", "--max-batch", "48", cwd=tmp_path
    )
    assert done.stdout.endswith("next: tritonserver --model-repository models\n")
    files = files_of(tmp_path / "models")
    assert set(files) == {"encoder/config.pbtxt", "encoder/1/model.onnx"}
    assert files["encoder/1/model.onnx"] == encoder.read_bytes()

    read = parsed(files["encoder/config.pbtxt"].decode())
    assert (read.name, read.platform, read.max_batch_size) == ("encoder", "onnxruntime_onnx", 48)
    graph = onnx.load_from_string(files["encoder/1/model.onnx"]).graph
    for tensors, values in ((read.input, graph.input), (read.output, graph.output)):
        assert [tensor.name for tensor in tensors] == [value.name for value in values]
        for tensor, value in zip(tensors, values, strict=True):
            of_graph = value.type.tensor_type
            assert tensor.data_type == TYPES[of_graph.elem_type]
            batch, *dims = of_graph.shape.dim
            assert batch.dim_param  # dynamic, and Triton's own
            assert list(tensor.dims) == [dim.dim_value for dim in dims]
    assert list(read.input[0].dims) == [SIZE, SIZE, 3]


@pytest.mark.parametrize(("max_batch", "preferred"), [(64, [16, 32, 64]), (3, [1, 3]), (1, [1])])
def test_requests_are_batched_up_to_what_was_said(max_batch: int, preferred: list[int]) -> None:
    read = parsed(config(SIZE, DIM, max_batch))
    assert read.max_batch_size == max_batch
    assert list(read.dynamic_batching.preferred_batch_size) == preferred
    assert 0 < read.dynamic_batching.max_queue_delay_microseconds <= 10_000
    assert [group.kind for group in read.instance_group] == [ModelInstanceGroup.Kind.KIND_AUTO]
    assert read.version_policy.latest.num_versions == 1


def test_an_earlier_export_is_replaced_and_nothing_else_is(encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    export_triton(encoder, folder, 64)
    write_encoder(encoder, DIM + 1, SIZE)
    export_triton(encoder, folder, 8)
    read = parsed((folder / "encoder/config.pbtxt").read_text())
    assert (read.output[0].dims[0], read.max_batch_size) == (DIM + 1, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.onnx", "models"]  # no scratch

    (folder / "resnet").mkdir()
    before = files_of(folder)
    line = fails(2, "lookalike", "export-triton", "models", "--encoder", "encoder.onnx", cwd=tmp_path)
    assert line == (
        "models: holds 'resnet', which this command did not write and would remove: name a new folder"
    )
    assert files_of(folder) == before


@pytest.mark.parametrize(
    ("folder", "encoder", "max_batch", "words"),
    [
        ("models", "none.onnx", 64, r"none\.onnx: missing, stage 'export' makes it"),
        ("models", "encoder.onnx", 0, "--max-batch: 0 is not between 1 and 2,147,483,647"),
        ("text", "encoder.onnx", 64, "text: a file: name a folder"),
        ("models", "text", 64, "text: not an ONNX file that onnxruntime can load"),
    ],
)
@pytest.mark.usefixtures("encoder")
def test_a_mistake_is_one_line_and_writes_nothing(
    tmp_path: Path, folder: str, encoder: str, max_batch: int, words: str
) -> None:
    (tmp_path / "text").write_text("hello")
    before = files_of(tmp_path)
    with pytest.raises(UserError, match=words) as error:
        export_triton(tmp_path / encoder, tmp_path / folder, max_batch)
    assert "\n" not in str(error.value)
    assert files_of(tmp_path) == before
    assert not (tmp_path / "models").exists()
