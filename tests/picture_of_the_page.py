"""Draws the page for the README: `python -m tests.picture_of_the_page` after `dvc repro`."""

import tempfile
from pathlib import Path

from PIL import Image

from pipeline.artifacts import Artifacts
from tests.browser import Page, open_browser
from tests.conftest import ROOT

_COLORS = 200  # of a palette: a page has few, and a file for git should be small


def main() -> None:
    with tempfile.TemporaryDirectory() as profile, open_browser(Path(profile)) as page:
        page.size(1080, 1010)
        page.scheme("light")
        page.open(Artifacts(ROOT / "data").report_page)
        page.run("allDrawn.then(() => 1)")
        keep(page, ROOT / "docs/images/report.png")
        page.size(1080, 1180)
        page.run("document.getElementById('map-title').scrollIntoView({behavior: 'instant'}); 1")
        page.wait("document.getElementById('map').dataset.painted > 0")
        point = page.run(
            "(() => { const box = document.getElementById('map').getBoundingClientRect();"
            "const [x, y] = map.place(0); return [box.x + x, box.y + y]; })()"
        )
        page.click(*point)
        page.wait("document.querySelectorAll('#map-detail button').length > 0")
        page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        keep(page, ROOT / "docs/images/report-map.png")


def keep(page: Page, path: Path) -> None:
    """What the window shows, in few colours."""
    page.screenshot(path)
    picture = Image.open(path).convert("RGB").quantize(_COLORS, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


if __name__ == "__main__":
    main()
