"""The page: all sections in one file that opens anywhere and asks nothing of a network."""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np

from pipeline.params.report import Report
from pipeline.report.album import Album
from pipeline.report.figures import Figure
from pipeline.report.inline import json_element, script_element, script_hash, vega
from pipeline.report.run import Run
from pipeline.report.sections.classes import Classes, classes
from pipeline.report.sections.findings import SHOWN, Gallery, findings
from pipeline.report.sections.map import Map, make_map, map_json
from pipeline.report.sections.provenance import Provenance, provenance
from pipeline.report.sections.search import Search, search
from pipeline.report.sections.summary import Summary, summary
from pipeline.report.sections.training import Training, training
from pipeline.report.sprites import LARGEST, Sprites, make_sprites, side_of_many

WEB = Path(__file__).parent / "web"
_SCRIPTS = ("figures.js", "findings.js", "images.js", "map.js")


@dataclass(frozen=True)
class Sections:
    """The seven of them, as the templates are given them."""

    summary: Summary
    search: Search
    map: Map
    findings: list[Gallery] | None
    training: Training
    classes: Classes
    provenance: Provenance

    def figures(self) -> Iterator[Figure]:
        """Those that stand in the page."""
        yield self.summary.figure
        yield from self.search.figures
        yield from (gallery.figure for gallery in self.findings or ())
        yield from (figure for _, figure in self.training.curves)
        of_classes = (self.classes.recall, self.classes.matrix, self.classes.few_labels)
        yield from (figure for figure in of_classes if figure is not None)
        yield self.provenance.figure


def make_page(run: Run, params: Report) -> str:
    """The page as HTML, the same for the same run to the last character."""
    album = Album(run.manifest)
    sections = Sections(
        summary(run),
        search(run, album, params.num_queries, params.seed),
        make_map(run, album, params.map_images, params.seed),
        findings(run, album),
        training(run, album, params.seed),
        classes(run, album),
        provenance(run),
    )
    sprites = _sprites(run, album, sections.map)
    return _html(run, album, sections, sprites)


def _sprites(run: Run, album: Album, found: Map) -> Sprites:
    image_size = run.pixels[np.zeros(1, dtype=np.int64)].shape[1]
    sides = dict.fromkeys(found.ids.tolist(), side_of_many(image_size, len(found.ids)))
    sides |= dict.fromkeys(album.shown, min(image_size, LARGEST))
    return make_sprites(run.pixels, sides)


def _html(run: Run, album: Album, sections: Sections, sprites: Sprites) -> str:
    figures = {figure.name: figure.as_json() for figure in sections.figures()}
    code = [(WEB / "static" / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    if any("chart" in figure for figure in figures.values()):
        code.insert(0, vega())
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(WEB),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html").render(
        run=run,
        sections=sections,
        cells=sprites.cells,
        sheets=[(sheet, _data_uri(sheet.webp)) for sheet in sprites.sheets],
        style=(WEB / "static/page.css").read_text(encoding="utf-8"),
        policy=_policy(code),
        data=[
            json_element("figures", figures),
            json_element("map-data", map_json(sections.map, run, album, sprites)),
        ],
        scripts=[script_element(part) for part in code],
        shown=SHOWN,
    )


def _policy(code: list[str]) -> str:
    """Nothing is fetched and nothing runs but the page's own scripts, whatever a class is called."""
    allowed: Mapping[str, str] = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",  # the places of the thumbnails stand in attributes
        "script-src": " ".join(map(script_hash, code)),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in allowed.items())


def _data_uri(webp: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"
