"""`lookalike init`: a project of one's own."""

from pathlib import Path
from typing import Annotated

import typer


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    recipe: Annotated[
        str, typer.Option(metavar="NAME", help="What params.yaml is set to; `lookalike recipe` lists them.")
    ] = "mnist5k",
    settings: Annotated[
        list[str] | None,
        typer.Option("-S", metavar="KEY=VALUE", help="Set this key too, after the recipe. Repeatable."),
    ] = None,
) -> None:
    """Makes a folder that is a project of yours: params.yaml, the chain, git and DVC.

    The installed package runs its stages, so it holds no code, and an upgrade of the package conflicts with
    nothing in it. A path of photographs is meant from where you are.

    \b
    Examples:
      lookalike init digits
      lookalike init shop --recipe photos -S dataset.path=/path/to/photos
      cd shop
      dvc repro
    """
    from pipeline.project.new import new_project

    new_project(folder, recipe, settings or [])
    print(f"{folder}: a project with recipe {recipe}; its README.md says what can be done")
    print(f"next: cd {folder} && dvc repro")
