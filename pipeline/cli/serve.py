"""`lookalike serve`: an index folder on the network."""

import os
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import UserError

_TOKEN = "LOOKALIKE_TOKEN"
_SHORTEST_TOKEN = 16
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    index: Annotated[
        Path, typer.Option(metavar="FOLDER", help="The index folder: of the chain, or a copy of one.")
    ] = Path("data/index"),
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="What the encoder runs on.")] = "auto",
    open_to_all: Annotated[
        bool, typer.Option("--open-to-all", help="Listen beyond this machine without a token.")
    ] = False,
) -> None:
    """Opens a search page and an API to an index folder.

    Listens on this machine alone. Elsewhere it asks for a token, which the environment variable
    LOOKALIKE_TOKEN holds, or for --open-to-all. Ctrl-C and SIGTERM finish what is under way. When the folder
    is replaced or changed, the new generation answers within a second.

    \b
    Examples:
      lookalike serve
      lookalike serve --index /backup/index --port 9000
      LOOKALIKE_TOKEN=$(openssl rand -hex 16) lookalike serve --host 0.0.0.0
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device: {device!r} is none of auto, cpu, cuda")
    token = _token()
    if host not in _LOOPBACK and token is None and not open_to_all:
        raise UserError(
            f"--host {host} opens the collection to other machines: set {_TOKEN} to a secret of at least "
            f"{_SHORTEST_TOKEN} characters, or add --open-to-all"
        )
    from pipeline.search.image_index import ImageIndex
    from pipeline.service.app import Service
    from pipeline.service.guards import Access
    from pipeline.service.server import listen, num_decoders, run

    opened = ImageIndex.open(index, device)  # type: ignore[arg-type]
    sock = listen(host, port)
    access = Access(token, loopback_only=host in _LOOPBACK and token is None)
    service = Service(index, opened, device, access, num_decoders=num_decoders())  # type: ignore[arg-type]
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{sock.getsockname()[1]}"
    run(service, sock, lambda: print(f"{len(opened):,} images of {index} at {address}", flush=True))


def _token() -> str | None:
    token = os.environ.get(_TOKEN)
    if token is not None and len(token) < _SHORTEST_TOKEN:
        raise UserError(f"{_TOKEN} has {len(token)} characters: it needs at least {_SHORTEST_TOKEN}")
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise UserError(f"{_TOKEN} holds other characters than letters, digits and signs of ASCII")
    return token
