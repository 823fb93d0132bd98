"""`lookalike query`: the images of the collection that look most like others."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.answer_alone import answer_alone
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.search.image_index import Neighbor


def query(
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE...", help="Image files to search with.", readable=False),
    ] = None,
    ids: Annotated[
        list[int] | None,
        typer.Option("--id", metavar="ID", help="An image of the collection to search with."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many neighbours of each.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    gallery: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="Draw queries and neighbours to this file.")
    ] = None,
    index: Annotated[
        Path, typer.Option(metavar="FOLDER", help="The index folder: of the chain, or a copy of one.")
    ] = Path("data/index"),
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="What the encoder runs on.")] = "auto",
) -> None:
    """Prints the images of the collection that look most like IMAGE.

    The score is the cosine similarity of the embeddings: 1 is the same picture.

    \b
    Examples:
      lookalike query photo.png
      lookalike query a.png b.png -k 5 --json
      lookalike query --id 17
      lookalike query photo.png --gallery neighbours.png
      lookalike query photo.png --index /backup/index
    """
    from pipeline.collection.sources.collection import printable
    from pipeline.images import read_image
    from pipeline.search.image_index import ImageIndex

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device: {device!r} is none of auto, cpu, cuda")
    images, ids = images or [], ids or []
    if not (images or ids):
        raise UserError("nothing to search with: name an image file, or --id and a number")
    with answer_alone() as out:
        opened = ImageIndex.open(index, device)  # type: ignore[arg-type]
        # every file is read before the first answer, so that a bad one stops the command before it prints
        pixels = [read_image(path, opened.encoder.image_size) for path in images]
        answers = opened.answers([*pixels, *ids], k)
        if gallery is not None:
            from pipeline.pictures import write_picture
            from pipeline.report.gallery import draw_gallery

            picture_of = opened.pictures()
            asked = [*pixels, *map(picture_of, ids)]
            write_picture(draw_gallery(picture_of, asked, answers), gallery)
        names = [printable(str(path)) for path in images] + [str(id_) for id_ in ids]
        print(_json(names, answers) if as_json else _tables(names, answers), file=out)


def _json(names: list[str], answers: "list[list[Neighbor]]") -> str:
    found = [
        {"query": name, "neighbors": [asdict(neighbor) for neighbor in answer]}
        for name, answer in zip(names, answers, strict=True)
    ]
    return json.dumps(found, indent=2)


def _tables(names: list[str], answers: "list[list[Neighbor]]") -> str:
    """A table an image, under its name where there are several."""
    tables = [_table(answer) for answer in answers]
    if len(names) == 1:
        return tables[0]
    return "\n".join(f"{name}:\n{table}" for name, table in zip(names, tables, strict=True))


def _table(neighbors: "list[Neighbor]") -> str:
    """Neighbours as aligned columns under a header."""
    rows = [("rank", "score", "class", "id", "source")]
    rows += [(str(n.rank), f"{n.score:.4f}", n.class_name or "-", str(n.id), n.source) for n in neighbors]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    aligned = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in aligned)
