"""`lookalike index build`: an index folder of embeddings, whoever made them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.index.changing import check_owner
from pipeline.errors import SettingError, UserError

if TYPE_CHECKING:
    from pipeline.params.index import Index


def build(
    arrays: Annotated[
        list[Path], typer.Argument(metavar="EMBEDDINGS.npy...", help="Arrays [N, D]; ids count all rows.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="The index folder that is made.")
    ],
    encoder: Annotated[
        Path | None, typer.Option(metavar="FILE.onnx", help="What made them; without it no picture is known.")
    ] = None,
    catalog: Annotated[
        Path | None, typer.Option(metavar="FILE.parquet", help="What is known of each, a row a vector.")
    ] = None,
    factory: Annotated[str, typer.Option(metavar="auto|FACTORY", help="By trial, or FAISS's own.")] = "auto",
    memory_gib: Annotated[float, typer.Option(metavar="GIB", help="That an index may take in memory.")] = 8.0,
    target_recall: Annotated[
        float, typer.Option(metavar="SHARE", help="Of the ten nearest, what is surely found.")
    ] = 0.99,
    num_queries: Annotated[int, typer.Option(metavar="N", help="Vectors that measure it.")] = 2000,
    seed: Annotated[int, typer.Option(metavar="N", help="Of what is drawn and learned.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replaces an index folder that is there.")] = False,
) -> None:
    """Builds an index folder of embeddings, whoever made them.

    They are float16, float32 or float64, and are made to be of length 1. The catalog has some of the columns
    id, split, class_name, source and sha256.

    \b
    Examples:
      lookalike index build train.npy test.npy -o shop-index
      lookalike index build shop.npy -o shop-index --encoder encoder.onnx --catalog shop.parquet
      lookalike index build shop.npy -o shop-index --factory IVF4096,Flat --target-recall 0.95
    """
    from pipeline.collection.sources.collection import printable
    from pipeline.search.from_arrays.folder import Given, build_folder

    params = _params(
        factory=factory,
        memory_gib=memory_gib,
        target_recall=target_recall,
        num_queries=num_queries,
        seed=seed,
    )
    check_owner(output, force, "choose another --output")
    try:
        built = build_folder(Given(arrays, encoder, catalog), output, params, replace=force)
    except SettingError as error:
        raise UserError(f"{_option(error.key)}: {error.reason}") from None
    recall = f"{built.recall_at_10:.4f} ({built.recall_at_10_low:.4f} to {built.recall_at_10_high:.4f})"
    print(
        f"{printable(str(output))}: {built.count:,} vectors of {built.dimension} dimensions, "
        f"{built.factory}, recall@10 {recall}"
    )
    if built.recall_at_10_low < target_recall:
        print(
            f"--target-recall: {target_recall} is not reached for sure: choose a --factory that can "
            "reach it, more --num-queries, or a lower target"
        )


def _params(**values: str | float) -> "Index":
    """The options as the section `index` of params.yaml, whose rules hold for them."""
    from pydantic import ValidationError

    from pipeline.params.explain import explain
    from pipeline.params.index import Index

    try:
        return Index.model_validate(values | {"thumbnail_size": 0})
    except ValidationError as error:
        key, _, rule = explain(error, Index).partition(":")
        raise UserError(f"{_option(key)}:{rule}") from None


def _option(key: str) -> str:
    """The option of a key of params.yaml."""
    return f"--{key.rpartition('.')[2].replace('_', '-')}"
