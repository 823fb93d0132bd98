"""The console script `lookalike`. What a command needs is imported when it runs: `--help` stays quick."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import plain_errors

if TYPE_CHECKING:
    from pipeline.pictures import Tile
    from pipeline.search.index import ImageIndex, Neighbor

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Finds the images that look alike, with an encoder learned from images without labels.",
)


@app.command()
def query(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Image files to search with.", readable=False)
    ],
    k: Annotated[int, typer.Option("-k", help="How many neighbours of each.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    gallery: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="Draw queries and neighbours to this file.")
    ] = None,
    data: Annotated[Path, typer.Option(metavar="FOLDER", help="Outputs of the chain.")] = Path("data"),
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="What the encoder runs on.")] = "auto",
) -> None:
    """Prints the images of the collection that look most like IMAGE.

    The score is the cosine similarity of the embeddings: 1 is the same picture.

    \b
    Examples:
      lookalike query photo.png
      lookalike query a.png b.png -k 5 --json
      lookalike query photo.png --gallery neighbours.png
    """
    from pipeline.errors import UserError
    from pipeline.images import read_image
    from pipeline.search.index import ImageIndex

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device: {device!r} is none of auto, cpu, cuda")
    index = ImageIndex.open(data, device)  # type: ignore[arg-type]
    # every file is read before the first answer, so that a bad one stops the command before it prints
    queries = [read_image(path, index.encoder.image_size) for path in images]
    answers = [index.neighbors(pixels, k) for pixels in queries]
    if gallery is not None:
        from pipeline.pictures import Tile, draw_gallery, write_picture

        lines = [
            (Tile(pixels, "query"), [_tile(index, neighbor) for neighbor in answer])
            for pixels, answer in zip(queries, answers, strict=True)
        ]
        write_picture(draw_gallery(lines), gallery)
    if as_json:
        found = [
            {"query": str(path), "neighbors": [asdict(neighbor) for neighbor in answer]}
            for path, answer in zip(images, answers, strict=True)
        ]
        print(json.dumps(found, indent=2))
        return
    for path, answer in zip(images, answers, strict=True):
        if len(images) > 1:
            print(f"{path}:")
        print(_table(answer))


@app.command()
def recipe(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The recipe to apply; left out: lists them.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("-S", metavar="KEY=VALUE", help="Set this key too, after the recipe. Repeatable."),
    ] = None,
) -> None:
    """Sets params.yaml to one of the recipes that stand in recipes/.

    A recipe fits the chain to a collection of images. Comments in params.yaml stay, and so does every key
    that the recipe does not name.

    \b
    Examples:
      lookalike recipe
      lookalike recipe cifar10
      lookalike recipe folder -S dataset.path=/path/to/photos
      lookalike recipe stl10 -S pretrain.epochs=20 -S pretrain.batch_size=128
      lookalike recipe mnist5k
    """
    from pipeline.errors import UserError
    from pipeline.recipes import apply_recipe, describe_recipes

    if name is None:
        if settings:
            raise UserError(f"-S {settings[0]}: stands without a recipe: lookalike recipe NAME -S KEY=VALUE")
        described = describe_recipes()
        width = max(map(len, described))
        print("\n".join(f"{recipe:{width}}  {text}".rstrip() for recipe, text in described.items()))
        return
    changes = apply_recipe(name, settings or [])
    print("\n".join(map(str, changes)) or "nothing to change")
    print("next: dvc repro")


def _tile(index: "ImageIndex", neighbor: "Neighbor") -> "Tile":
    from pipeline.pictures import Tile

    return Tile(index.pixels(neighbor.id), f"{neighbor.class_name or neighbor.id}  {neighbor.score:.3f}")


def _table(neighbors: "list[Neighbor]") -> str:
    """Neighbours as aligned columns under a header."""
    rows = [("rank", "score", "class", "id", "source")]
    rows += [(str(n.rank), f"{n.score:.4f}", n.class_name or "-", str(n.id), n.source) for n in neighbors]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    aligned = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in aligned)


def main() -> None:
    """Runs the console script; a person's mistake ends in one plain line."""
    with plain_errors():
        app()


if __name__ == "__main__":
    main()
