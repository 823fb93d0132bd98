"""`lookalike export-triton`: the encoder as a model repository of Triton."""

from pathlib import Path
from typing import Annotated

import typer


def export_triton(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The model repository to write.")],
    encoder: Annotated[
        Path, typer.Option(metavar="FILE", help="The encoder: of the chain, or a copy of one.")
    ] = Path("data/encoder/encoder.onnx"),
    max_batch: Annotated[
        int, typer.Option(metavar="N", help="Images that Triton gives the encoder at a time, at most.")
    ] = 64,
) -> None:
    """Writes the encoder as a model repository for NVIDIA's Triton Inference Server.

    The model is called encoder. Requests that come together are encoded together, on a GPU where Triton has
    one. What an earlier export wrote to DIR is replaced; a DIR that holds other things is refused.

    \b
    Examples:
      lookalike export-triton triton
      lookalike export-triton /srv/models --encoder /backup/index/encoder.onnx --max-batch 128
      tritonserver --model-repository triton
    """
    from pipeline.collection.sources.collection import printable
    from pipeline.encoder import triton

    written = triton.export_triton(encoder, folder, max_batch)
    size, name = written.image_size, printable(str(folder))
    print(
        f"{name}: model {triton.MODEL}, images uint8 [{size}, {size}, 3] -> embeddings float32 "
        f"[{written.dim}], at most {max_batch:,} at a time"
    )
    print(f"next: tritonserver --model-repository {name}")
