"""An encoder in fewer bits: its backbone in int8 or float16, what stands before and behind it in float32.

int8 is by static calibration (onnxruntime.quantization, QDQ): uint8 activations, int8 weights with a scale a
channel. Two things make it closer to float32, measured in docs/decisions.md: the first convolution stays in
float32, since pixels that are normalised fall between the steps of uint8; and what the rounding of weights
adds to the mean of a channel is taken off its bias.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from pipeline.encoder.backbone_graph import BackboneGraph, backbone_of
from pipeline.encoder.runtime import INPUT_NAME
from pipeline.errors import UserError

_CONV = "Conv"
# What onnxruntime computes on integers, or passes them through, between two convolutions.
_IN_INT8 = (_CONV, "Relu", "Clip", "Add", "MaxPool", "AveragePool", "Slice")
_IMAGES_AT_ONCE = 16  # in float32, with every value between the nodes
_LARGEST_INT8 = 127
# onnxruntime's quantiser warns of a graph that its own pre-processing has not seen; torch's exporter has
# folded the batch norms and knows the shapes already.
_PREPROCESSED = {"onnx.quant.pre_process": "onnxruntime.quant"}


class ImageBatches(CalibrationDataReader):  # type: ignore[misc]
    """Some images at a time, as onnxruntime's quantiser asks for them."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._batches = _batches(images)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self._batches, None)


def write_int8(encoder: Path, images: NDArray[np.uint8], output: Path) -> None:
    """Writes an encoder whose backbone computes in int8.

    Args:
        encoder: in float32, as `pipeline.encoder.export` wrote it.
        images: that the ranges of its values are taken from, uint8 [N, H, W, 3].
        output: the file that is written; may be `encoder`. The same arguments give the same bytes.

    Raises:
        UserError: the network has no convolution after its first.
    """
    model = onnx.load(encoder)
    backbone = backbone_of(model.graph)
    if sum(node.op_type == _CONV for node in backbone.nodes) < 2:
        raise UserError(
            "export.precision: int8 is for convolutions, and this network has none after its first: set it "
            "to fp16 or fp32"
        )
    properties = {each.key: each.value for each in model.metadata_props}
    _correct_biases(model, backbone, images)
    inside = {node.name for node in nodes_in_int8(backbone)}
    helper.set_model_props(model, properties | _PREPROCESSED)
    with TemporaryDirectory() as scratch:
        quantized = Path(scratch) / "int8.onnx"
        quantize_static(
            model,
            quantized,
            ImageBatches(images),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=list(_IN_INT8),
            nodes_to_exclude=[node.name for node in model.graph.node if node.name not in inside],
        )
        _write(onnx.load(quantized), properties, "int8", output)


def write_fp16(encoder: Path, output: Path) -> None:
    """Writes an encoder whose backbone computes in float16; arguments as those of `write_int8`.

    A GPU computes so; onnxruntime on a CPU casts to float32 and back around most nodes.

    Raises:
        UserError: the network has a node that takes no float16.
    """
    model = onnx.load(encoder)
    graph = model.graph
    backbone = backbone_of(graph)
    renamed = {name: f"{name}_fp16" for name in (backbone.pixels, backbone.features)}
    renamed |= _half_constants(graph, backbone)
    inside = {node.name for node in backbone.nodes}
    nodes = []
    for node in graph.node:
        if node.name in inside:
            _compute_in_half(node, renamed)
        nodes.append(node)
        if backbone.pixels in node.output:
            nodes.append(_cast(backbone.pixels, renamed[backbone.pixels], TensorProto.FLOAT16))
        if renamed[backbone.features] in node.output:
            nodes.append(_cast(renamed[backbone.features], backbone.features, TensorProto.FLOAT))
    _replace(graph.node, nodes)
    del graph.value_info[:]  # their types are others now; whoever loads the file infers them
    try:
        _write(model, {each.key: each.value for each in model.metadata_props}, "fp16", output)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"export.precision: fp16 is not for this network ({reason}): set it to fp32"
        ) from None


def nodes_in_int8(backbone: BackboneGraph) -> list[NodeProto]:
    """The nodes that compute on integers: those of these kinds behind the first convolution."""
    convs = [number for number, node in enumerate(backbone.nodes) if node.op_type == _CONV]
    return [node for node in backbone.nodes[convs[0] + 1 :] if node.op_type in _IN_INT8]


def _batches(images: NDArray[np.uint8]) -> Iterator[dict[str, NDArray[np.uint8]]]:
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        yield {INPUT_NAME: images[start : start + _IMAGES_AT_ONCE]}


def _correct_biases(model: ModelProto, backbone: BackboneGraph, images: NDArray[np.uint8]) -> None:
    """Takes off each bias what the rounding of its weights will add to the mean of its channel.

    Source: Nagel et al. 2019, arXiv:1906.04721, sec. 4.2, with means of images in place of batch norms'.
    """
    convs = [node for node in nodes_in_int8(backbone) if node.op_type == _CONV]
    for node in convs:
        _give_bias(node, model.graph)
    constants = {each.name: each for each in model.graph.initializer}
    means = _channel_means(model, sorted({node.input[0] for node in convs}), images)
    for node in convs:
        weight, bias = (constants.get(name) for name in (*node.input, "")[1:3])
        if weight is None or bias is None:  # not a constant: it is quantised as it comes
            continue
        weights = numpy_helper.to_array(weight)
        rounding = (_rounded(weights) - weights).sum(axis=tuple(range(2, weights.ndim)))  # [out, in a group]
        groups = len(means[node.input[0]]) // rounding.shape[1]
        mean = means[node.input[0]].reshape(groups, -1).repeat(len(rounding) // groups, axis=0)
        corrected = numpy_helper.to_array(bias) - (rounding * mean).sum(axis=1)
        bias.CopyFrom(numpy_helper.from_array(corrected.astype(np.float32), bias.name))


def _give_bias(conv: NodeProto, graph: onnx.GraphProto) -> None:
    """A bias of zeros to a convolution that has none, where its weights are constants."""
    weight = next((each for each in graph.initializer if each.name == conv.input[1]), None)
    if len(conv.input) == 2 and weight is not None:
        zeros = np.zeros(weight.dims[0], dtype=np.float32)
        graph.initializer.append(numpy_helper.from_array(zeros, f"{conv.name}_bias"))
        conv.input.append(f"{conv.name}_bias")


def _rounded(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """As onnxruntime's quantiser rounds them: symmetric, a scale for each channel of the output."""
    largest = np.abs(weights).max(axis=tuple(range(1, weights.ndim)), keepdims=True)
    scale = np.where(largest > 0, largest, 1) / _LARGEST_INT8
    rounded: NDArray[np.float32] = (np.rint(weights / scale) * scale).astype(np.float32)
    return rounded


def _channel_means(
    model: ModelProto, names: list[str], images: NDArray[np.uint8]
) -> dict[str, NDArray[np.float64]]:
    """The mean of each channel of some values [B, C, H, W] over all images, float64 [C]."""
    probed = ModelProto()
    probed.CopyFrom(model)
    axes = "axes_of_channel_means"
    probed.graph.initializer.append(numpy_helper.from_array(np.array([2, 3]), axes))
    outputs = [f"{name}_channel_mean" for name in names]
    for name, output in zip(names, outputs, strict=True):
        probed.graph.node.append(helper.make_node("ReduceMean", [name, axes], [output], keepdims=0))
        probed.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(probed.SerializeToString(), providers=["CPUExecutionProvider"])
    totals = [
        [found.astype(np.float64).sum(axis=0) for found in session.run(outputs, batch)]
        for batch in _batches(images)
    ]
    return {name: sum(parts) / len(images) for name, *parts in zip(names, *totals, strict=True)}


def _half_constants(graph: onnx.GraphProto, backbone: BackboneGraph) -> dict[str, str]:
    """Adds the backbone's constants in float16; returns their names by those of the float32 ones."""
    read = {name for node in backbone.nodes for name in node.input}
    inside = {node.name for node in backbone.nodes}
    read_elsewhere = {name for node in graph.node if node.name not in inside for name in node.input}
    renamed, constants = {}, []
    for constant in graph.initializer:
        is_half = constant.name in read and constant.data_type == TensorProto.FLOAT
        if is_half:
            renamed[constant.name] = f"{constant.name}_fp16"
            constants.append(_half(constant, renamed[constant.name]))
        if not is_half or constant.name in read_elsewhere:
            constants.append(constant)
    _replace(graph.initializer, constants)
    return renamed


def _compute_in_half(node: NodeProto, renamed: Mapping[str, str]) -> None:
    node.input[:] = [renamed.get(name, name) for name in node.input]
    node.output[:] = [renamed.get(name, name) for name in node.output]
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_half(attribute.t, attribute.t.name))


def _half(constant: TensorProto, name: str) -> TensorProto:
    with np.errstate(over="ignore"):  # infinite: the gate on what it does stops it
        return numpy_helper.from_array(numpy_helper.to_array(constant).astype(np.float16), name)


def _cast(value: str, to: str, element: int) -> NodeProto:
    return helper.make_node("Cast", [value], [to], f"cast_of_{value}", to=element)


def _replace(container: Any, items: list[Any]) -> None:
    kept = [type(item).FromString(item.SerializeToString()) for item in items]
    del container[:]
    container.extend(kept)


def _write(model: ModelProto, properties: Mapping[str, str], precision: str, output: Path) -> None:
    helper.set_model_props(model, {**properties, "precision": json.dumps(precision)})
    onnx.checker.check_model(model, full_check=True)
    output.write_bytes(model.SerializeToString(deterministic=True))
