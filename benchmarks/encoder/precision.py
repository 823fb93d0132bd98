"""How fast an encoder is in fewer bits: float32, float16 and int8 in turns, by onnxruntime on this CPU.

    python -m benchmarks.encoder.precision
    python -m benchmarks.encoder.precision --networks efficientnet_lite0:224 --rounds 10 --threads 1

int8 stands in both formats of onnxruntime's quantiser, QDQ (which stage `export` writes) and QOperator.
Weights are random and images patches of colour: neither changes the speed. A speed ends in what onnxruntime
made of the graph: convolutions on integers, convolutions in float, and casts between the two. The last lines
are the ratios, the median of the rounds and their range.
"""

import argparse
import logging
import statistics
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

from benchmarks.encoder.embedding import (
    NETWORKS,
    batch_of,
    colour_patches,
    images_per_s,
    ratio,
    write_network,
)
from pipeline.encoder.backbone_graph import backbone_of
from pipeline.encoder.quantize import ImageBatches, nodes_in_int8, write_fp16, write_int8
from pipeline.encoder.runtime import INPUT_NAME

_CALIBRATION = 32  # images


def write_qoperator(encoder: Path, images: np.ndarray, output: Path) -> None:
    """As `write_int8` but for the correction of biases, in onnxruntime's older format."""
    model = onnx.load(encoder)
    inside = {node.name for node in nodes_in_int8(backbone_of(model.graph))}
    quantize_static(
        model,
        output,
        ImageBatches(images),
        quant_format=QuantFormat.QOperator,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=sorted({node.op_type for node in model.graph.node if node.name in inside}),
        nodes_to_exclude=[node.name for node in model.graph.node if node.name not in inside],
    )


def write_sides(folder: Path, name: str, size: int) -> dict[str, Path]:
    paths = {side: folder / f"{side}.onnx" for side in ("fp32", "fp16", "int8", "int8 QOperator")}
    images = colour_patches(_CALIBRATION, size)
    write_network(name, size, paths["fp32"])
    write_fp16(paths["fp32"], paths["fp16"])
    write_int8(paths["fp32"], images, paths["int8"])
    write_qoperator(paths["fp32"], images, paths["int8 QOperator"])
    return paths


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """A session, and beside the file the graph that it really runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.optimized_model_filepath = str(path.with_suffix(".optimised"))
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def what_runs(path: Path) -> str:
    kinds = Counter(node.op_type for node in onnx.load(path.with_suffix(".optimised")).graph.node)
    between = kinds["QuantizeLinear"] + kinds["DequantizeLinear"]
    return f"{kinds['QLinearConv']} on integers, {kinds['Conv']} in float, {between} casts"


def num_embedded(session: onnxruntime.InferenceSession, batch: np.ndarray) -> int:
    session.run(None, {INPUT_NAME: batch})
    return len(batch)


def race(name: str, size: int, args: argparse.Namespace) -> list[str]:
    """Prints the speeds; returns a line for each ratio."""
    clock, threads = (time.process_time, 1) if args.processor_time else (time.perf_counter, args.threads)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_sides(Path(folder), name, size)
        sessions = {side: open_session(path, threads) for side, path in paths.items()}
        batch = colour_patches(args.batch or batch_of(size), size)
        for session in sessions.values():
            session.run(None, {INPUT_NAME: batch})
        speeds: dict[str, list[float]] = {side: [] for side in sessions}
        for _ in range(args.rounds):
            for side, session in sessions.items():
                run = partial(num_embedded, session, batch)
                speeds[side].append(images_per_s(run, clock, args.seconds))
        what = f"{name} {size} px, batches of {len(batch)}"
        for side, found in speeds.items():
            print(
                f"{what}: {side} {statistics.median(found):,.1f} images/s; {what_runs(paths[side])}",
                flush=True,
            )
    sides = [side for side in speeds if side != "fp32"]
    return [f"{what}: {side} / fp32 {ratio(speeds[side], speeds['fp32'])}" for side in sides]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=[f"{name}:{size}" for name, size in NETWORKS])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="a side and round")
    parser.add_argument("--processor-time", action="store_true", help="of one thread: on a shared machine")
    parser.add_argument("--threads", type=int, default=0, help="0: one for each core")
    parser.add_argument(
        "--batch", type=int, help="images; 256 at up to 64 px and 32 above where it is not given"
    )
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # the quantiser prints whole weights
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    print(f"VNNI: {'avx512_vnni' in flags or 'avx_vnni' in flags}; onnxruntime {onnxruntime.__version__}")
    ratios = []
    for network in args.networks:
        name, _, size = network.rpartition(":")
        ratios += race(name, int(size), args)
    print("\n".join(ratios))


if __name__ == "__main__":
    main()
