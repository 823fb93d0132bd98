"""The console script itself. What a command needs is imported when it runs: `--help` stays quick."""

import importlib.metadata
from signal import SIGINT
from typing import Annotated

import typer

from pipeline.cli.compare import compare
from pipeline.cli.doctor import doctor
from pipeline.cli.embed import embed
from pipeline.cli.export_triton import export_triton
from pipeline.cli.index.building import build
from pipeline.cli.index.changing import app as index
from pipeline.cli.init import init
from pipeline.cli.query import query
from pipeline.cli.recipe import recipe
from pipeline.cli.serve import serve
from pipeline.cli.upgrade import upgrade
from pipeline.errors import EXIT_BY_SIGNAL, plain_errors

_INTERRUPTED = EXIT_BY_SIGNAL + SIGINT


def _print_version(wanted: bool) -> None:
    if wanted:
        print(importlib.metadata.version("lookalike"))
        raise typer.Exit


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Finds the images that look alike, with an encoder learned from images without labels.",
)
app.command()(query)
app.command()(serve)
app.command()(embed)
index.command()(build)
app.add_typer(index, name="index")
app.command()(export_triton)
app.command()(compare)
app.command()(init)
app.command()(recipe)
app.command()(upgrade)
app.command()(doctor)


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and leave.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """What stands before a command."""


def main() -> None:
    """Runs the console script; a person's mistake ends in one plain line."""
    with plain_errors():
        try:
            app()
        except SystemExit as left:
            if left.code == _INTERRUPTED:  # by Ctrl-C, which typer ends in without a word
                raise KeyboardInterrupt from None
            raise


if __name__ == "__main__":
    main()
