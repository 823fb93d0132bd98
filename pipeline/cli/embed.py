"""`lookalike embed`: the embeddings of any image files, as a table."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import UserError


def embed(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Image files, folders, .tar, .tar.gz and .zip of them, .parquet tables; also s3://... .",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="TABLE.parquet", help="Where the table is written.")
    ],
    encoder: Annotated[
        Path, typer.Option(metavar="FILE", help="The encoder: of the chain, or a copy of one.")
    ] = Path("data/encoder/encoder.onnx"),
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="What the encoder runs on.")] = "auto",
    batch_size: Annotated[int, typer.Option(metavar="N", help="Images that it is given at a time.")] = 64,
    engine: Annotated[
        str, typer.Option(metavar="local|ray", help="ray: Ray Data's workers, on this machine or many.")
    ] = "local",
    ray_address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Of a Ray cluster to join, or auto.")
    ] = None,
) -> None:
    """Writes the embeddings of image files to a Parquet table.

    A row an image: source, sha256, width, height, and embedding, float32 and of length 1, so that the dot
    product of two is their cosine similarity. An image that cannot be read is named on standard error and
    left out. A command that was stopped goes on with the parts of 2,048 images that it had finished.

    \b
    Examples:
      lookalike embed photos/ -o photos.parquet
      lookalike embed a.jpg b.png scans.tar -o some.parquet
      lookalike embed photos/ -o photos.parquet --encoder /backup/index/encoder.onnx
      lookalike embed s3://bucket/photos/ -o photos.parquet --engine ray
    """
    from pipeline.collection.places import place_of
    from pipeline.collection.sources.collection import printable
    from pipeline.encoder.from_files.embed_files import embed_files
    from pipeline.encoder.runtime import Encoder

    _check(output, device, batch_size, engine, ray_address)
    places = [place_of(path) for path in paths]
    if engine == "ray":
        from pipeline.encoder.on_ray.files import embed_files_on_ray

        dim = Encoder.open(encoder, "cpu").dim
        num_rows, skipped = embed_files_on_ray(encoder, places, batch_size, output, device, ray_address)  # type: ignore[arg-type]
    else:
        opened = Encoder.open(encoder, device)  # type: ignore[arg-type]
        dim = opened.dim
        num_rows, skipped = embed_files(opened, places, batch_size, output)
    for image in skipped:
        print(f"{image.source}: {image.reason}", file=sys.stderr)
    left_out = f"; {len(skipped):,} could not be read" if skipped else ""
    print(f"{printable(str(output))}: {num_rows:,} embeddings of {dim} dimensions{left_out}")


def _check(output: Path, device: str, batch_size: int, engine: str, ray_address: str | None) -> None:
    """Refuses what cannot be meant, before any work."""
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device: {device!r} is none of auto, cpu, cuda")
    if output.suffix.lower() != ".parquet":
        raise UserError(f"--output: {str(output)!r} does not end in .parquet, which is what is written")
    if output.is_dir():
        raise UserError(f"--output: {str(output)!r} is a folder: name a file in it")
    if batch_size < 1:
        raise UserError(f"--batch-size: {batch_size} is below 1")
    if engine not in ("local", "ray"):
        raise UserError(f"--engine: {engine!r} is none of local, ray")
    if engine == "local" and ray_address is not None:
        raise UserError("--ray-address: only for --engine ray")
