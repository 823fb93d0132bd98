"""Draws the search page for the docs: `python -m tests.picture_of_the_search [INDEX [ID]]`."""

import sys
import tempfile
from pathlib import Path

from tests.browser import open_browser
from tests.conftest import ROOT
from tests.picture_of_the_page import keep
from tests.serving import serving


def main(index: str = "data/index", id_: str = "0") -> None:
    with (
        serving(Path(index)) as server,
        tempfile.TemporaryDirectory() as profile,
        open_browser(Path(profile)) as page,
    ):
        page.size(1080, 860)
        page.scheme("light")
        page.visit(f"{server.url}/?id={id_}")
        page.wait("document.getElementById('images')?.getAttribute('aria-busy') === 'false'")
        page.wait("[...document.images].every((image) => image.complete)")
        page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        keep(page, ROOT / "docs/images/serve.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
