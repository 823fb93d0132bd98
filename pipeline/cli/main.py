"""The console script itself. What a command needs is imported when it runs: `--help` stays quick."""

import typer

from pipeline.cli.query import query
from pipeline.cli.recipe import recipe
from pipeline.errors import plain_errors

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Finds the images that look alike, with an encoder learned from images without labels.",
)
app.command()(query)
app.command()(recipe)


def main() -> None:
    """Runs the console script; a person's mistake ends in one plain line."""
    with plain_errors():
        app()


if __name__ == "__main__":
    main()
