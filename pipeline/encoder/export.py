"""The backbone as one ONNX file, and the gate that it must pass: the same embeddings as torch."""

import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn
from torch.onnx import ONNXProgram

from models.backbones import build_backbone, published_width
from models.weights import CENTER
from pipeline.encoder.runtime import INPUT_NAME, OUTPUT_NAME, Encoder
from pipeline.errors import MachineError, damaged_output, existing
from pipeline.images import INTERPOLATION, RESIZE_RULE

# The newest opset that torch's exporter writes without converting; onnxruntime 1.31 runs it.
OPSET = 23
PARITY_BATCHES = (1, 2, 7, 64)
_PATCHES = 4  # a side
_NOISE = 16  # of 255


class PixelEncoder(nn.Module):
    """What is exported: uint8 pixels to a normalised embedding, scaling and normalisation included.

    Args:
        backbone: float [B, 3, H, W] -> [B, D].
        mean: of the three channels, on the scale from 0 to 1.
        std: likewise.
        center: what is taken off from the normalised features, [D]; None for nothing.
    """

    mean: Tensor
    std: Tensor
    center: Tensor | None

    def __init__(
        self, backbone: nn.Module, mean: list[float], std: list[float], center: Tensor | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        self.register_buffer("center", center)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] to float32 [B, D], L2-normalised."""
        pixels = (images.float() / 255 - self.mean) / self.std
        embeddings = F.normalize(self.backbone(pixels.permute(0, 3, 1, 2)), dim=1)
        return embeddings if self.center is None else F.normalize(embeddings - self.center, dim=1)


class Gate(Protocol):
    """How far onnxruntime may stand from torch, as a section of params.yaml says."""

    @property
    def max_abs_difference(self) -> float: ...

    @property
    def min_cosine(self) -> float: ...


@dataclass(frozen=True)
class Parity:
    """How far onnxruntime stands from torch, over batches of 1, 2, 7 and 64 images."""

    max_abs_difference: float
    min_cosine: float


def load_backbone(path: Path) -> tuple[PixelEncoder, dict[str, Any]]:
    """A backbone as stage `pretrain` wrote it, ready to export, and its card.

    Raises:
        UserError: the file is missing, damaged, or not of stage `pretrain`.
    """
    existing(path, made_by="pretrain")
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {})["lookalike"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        backbone = build_backbone(**card["backbone"], image_size=card["image_size"]).module
        center = weights.pop(CENTER, None)
        backbone.load_state_dict(weights)
    except OSError:
        raise
    except Exception as error:  # safetensors' own exception shares no other class
        raise damaged_output(path, f"not a backbone of stage 'pretrain' ({error})", "pretrain") from None
    card["centered"] = center is not None
    return PixelEncoder(backbone, card["mean"], card["std"], center).eval(), card


def export_backbones(encoders: Mapping[Path, Path], naming: Mapping[str, Any], gate: Gate) -> list[Parity]:
    """Writes encoders and holds each against torch.

    Args:
        encoders: a backbone as stage `pretrain` wrote it -> the ONNX file that is written of it.
        naming: `name` and `version`, for its metadata.
        gate: how far the two may be apart.

    Returns:
        How far each is from torch.

    Raises:
        UserError: a backbone is missing or damaged.
        MachineError: torch and onnxruntime disagree.
    """
    graphs: dict[str, ONNXProgram] = {}
    parities = []
    for backbone, encoder in encoders.items():
        module, card = load_backbone(backbone)
        network = card.pop("backbone")
        architecture = json.dumps([network, card["image_size"], card["centered"]])
        # tracing is most of the work, and no weight changes what it gives
        graph = graphs.get(architecture) or trace(module, card["image_size"])
        graphs[architecture] = ONNXProgram(graph.model.clone(), graph.exported_program)
        metadata = {
            **naming,
            **card,
            "backbone": network["name"],
            "width": network["width"] or published_width(network["name"]),
            "resize": RESIZE_RULE,
            "interpolation": INTERPOLATION,
        }
        write_onnx(graph, module, metadata, encoder)
        # float32 on the CPU on both sides: the gate is for the graph, not for a GPU's rounding
        on_cpu = Encoder.open(encoder, device="cpu")
        parities.append(check_parity(module, on_cpu, gate.max_abs_difference, gate.min_cosine))
    return parities


def trace(module: PixelEncoder, image_size: int) -> ONNXProgram:
    """The graph of a module in eval mode, for any batch, not yet optimised: no weight is folded in it."""
    # two images: with one the exporter takes the batch for a constant
    example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, on the versions of its parts
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            (example,),
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    if program is None:
        raise AssertionError("torch.onnx.export gave no program")
    return program


def write_onnx(graph: ONNXProgram, module: PixelEncoder, metadata: Mapping[str, Any], path: Path) -> None:
    """Writes a module to one ONNX file.

    Args:
        graph: of this module, or of another of its architecture; it is used up, for weights are folded in it.
        module: whose weights are written.
        metadata: written to `metadata_props`, each value as JSON.
        path: of the file; no side file is made.

    Raises:
        onnx.checker.ValidationError: the full check fails.
    """
    used = graph.model.graph.initializers  # not, say, how many batches a batch norm has seen
    graph.apply_weights({name: value for name, value in module.state_dict().items() if name in used})
    graph.optimize()
    model = graph.model_proto
    _forget_origins(model)
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def check_parity(
    module: PixelEncoder, encoder: Encoder, max_abs_difference: float, min_cosine: float
) -> Parity:
    """Compares torch and onnxruntime on random pixels.

    Raises:
        MachineError: they differ by more than the given bounds.
    """
    difference, cosine = 0.0, 1.0
    for batch_size in PARITY_BATCHES:
        images = _random_pixels(batch_size, encoder.image_size)
        with torch.no_grad():
            expected = module(torch.from_numpy(images)).numpy()
        actual = encoder(images)
        difference = max(difference, float(np.abs(expected - actual).max()))
        # a network may find nothing in an image: no direction, in which both agree
        nothing = ~expected.any(axis=1) & ~actual.any(axis=1)
        cosines = np.where(nothing, 1.0, (expected.astype(np.float64) * actual).sum(axis=1))
        cosine = min(cosine, float(cosines.min()))
    if not (difference <= max_abs_difference and cosine >= min_cosine):  # nor what is no number
        raise MachineError(
            f"onnxruntime and torch disagree: largest difference {difference:.2g} (at most "
            f"{max_abs_difference:.2g}), lowest cosine {cosine:.7f} (at least {min_cosine})"
        )
    return Parity(difference, cosine)


def _random_pixels(batch_size: int, size: int) -> NDArray[np.uint8]:
    """Patches of colour under a little noise.

    Noise alone is so unlike a picture that a pretrained network may find nothing in it, and a vector near
    zero is all rounding once it has length 1.
    """
    rng = np.random.default_rng(batch_size)
    colours = rng.integers(0, 256, (batch_size, _PATCHES, _PATCHES, 3))
    place = np.arange(size) * _PATCHES // size
    noise = rng.integers(-_NOISE, _NOISE + 1, (batch_size, size, size, 3))
    return (colours[:, place][:, :, place] + noise).clip(0, 255).astype(np.uint8)


def _forget_origins(model: onnx.ModelProto) -> None:
    """Removes what the exporter notes beside each node: source lines with this machine's paths."""
    model.doc_string = ""
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        del graph.metadata_props[:]
        graph.doc_string = ""
        for node in graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
