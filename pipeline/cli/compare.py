"""`lookalike compare`: which of two runs is better."""

import json
from typing import Annotated

import typer

from pipeline.cli.answer_alone import answer_alone
from pipeline.errors import UserError


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A folder, git revision or DVC experiment.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another on the same images.")],
    by: Annotated[
        str | None,
        typer.Option(metavar="knn|linear|retrieval", help="What the verdict is by; kNN where both have it."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Says which of two runs is better, by how much, and whether that is beyond chance.

    A and B are a folder of outputs (data), a project's folder that holds one, or else a git revision or DVC
    experiment of the project in this folder, which is read from DVC's cache. Images are paired by their
    sha256; the last line begins with "better: A", "better: B" or "no difference".

    \b
    Examples:
      lookalike compare HEAD data
      lookalike compare main exp-abc
      lookalike compare data ../simsiam --by linear
      lookalike compare v1.0 HEAD~1 --json
    """
    from pipeline.comparison import paired, words
    from pipeline.comparison.answered import PROTOCOLS
    from pipeline.comparison.runs import open_run

    if by is not None and by.lower() not in PROTOCOLS:
        raise UserError(f"--by: {by!r} is none of {', '.join(PROTOCOLS)}")
    with answer_alone() as out:
        found = paired.compare(open_run(a), open_run(b), by and by.lower())
        print(json.dumps(words.as_json(found), indent=2) if as_json else words.table(found), file=out)
