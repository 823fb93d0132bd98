"""`lookalike recipe`: params.yaml fitted to a collection."""

from typing import Annotated

import typer

from pipeline.errors import UserError


def recipe(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The recipe to apply; left out: lists them.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("-S", metavar="KEY=VALUE", help="Set this key too, after the recipe. Repeatable."),
    ] = None,
) -> None:
    """Sets params.yaml to one of the recipes of the package, or of a folder recipes/ of your own.

    A recipe fits the chain to a collection of images. Comments in params.yaml stay, and so does every key
    that the recipe does not name.

    \b
    Examples:
      lookalike recipe
      lookalike recipe cifar10
      lookalike recipe photos -S dataset.path=/path/to/photos
      lookalike recipe stl10 -S pretrain.epochs=20 -S pretrain.batch_size=128
      lookalike recipe mnist5k
    """
    from pipeline.artifacts import stages_under_way
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
    for folder, process in stages_under_way() if changes else []:
        print(
            f"{folder} is being written by process {process}, with the params as they were: where its own "
            "changed it will write nothing, unless they are put back before it ends"
        )
    print("next: dvc repro")
