"""Where the backbone lies in the graph of an encoder: what stands before and behind it stays in float32."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from pipeline.encoder.runtime import INPUT_NAME, OUTPUT_NAME

_NORMALISATION = ("Cast", "Div", "Sub", "Div", "Transpose")  # of the pixels, as PixelEncoder has it
_UNITS = "Div"  # L2 normalisation ends in it
_CENTERING = "Sub"


@dataclass(frozen=True)
class BackboneGraph:
    """The part of an encoder's graph that is the backbone.

    Attributes:
        pixels: the name of its input, float32 [B, 3, H, W], normalised.
        features: of its output, float32 [B, D], before it is brought to length 1.
        nodes: its nodes, in the graph's order.
    """

    pixels: str
    features: str
    nodes: list[onnx.NodeProto]


def backbone_of(graph: onnx.GraphProto) -> BackboneGraph:
    """Finds the backbone in a graph that `pipeline.encoder.export.write_onnx` wrote.

    Raises:
        ValueError: the pixels are not normalised, or the embeddings are not brought to length 1, as there.
    """
    made_by = {output: node for node in graph.node for output in node.output}
    pixels = INPUT_NAME
    for op_type in _NORMALISATION:
        reading = (node for node in graph.node if pixels in node.input and node.op_type == op_type)
        pixels = _one(reading).output[0]
    unit = made_by[OUTPUT_NAME]
    before = made_by.get(unit.input[0])
    if before is not None and before.op_type == _CENTERING:  # normalised, centred, normalised again
        unit = made_by[before.input[0]]
    if unit.op_type != _UNITS:
        raise ValueError(f"{OUTPUT_NAME} is made by {unit.op_type}, not by a division by its length")
    features = unit.input[0]
    inside: set[str] = set()
    waiting = [features]
    while waiting:
        name = waiting.pop()
        if name != pixels and name in made_by and name not in inside:
            inside.add(name)
            waiting.extend(made_by[name].input)
    return BackboneGraph(pixels, features, [node for node in graph.node if inside & set(node.output)])


def _one(nodes: Iterator[onnx.NodeProto]) -> onnx.NodeProto:
    found = list(nodes)
    if len(found) != 1:
        raise ValueError(f"the pixels' normalisation has {len(found)} nodes where it should have one")
    return found[0]
