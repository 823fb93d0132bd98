"""The search page and the API's for everybody: by keyboard, on a phone, light and dark, aloud."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Page
from tests.conftest import ROOT
from tests.search_page import (
    FIXTURES,
    IN_A_BROWSER,
    SKIPS,
    neighbors,
    press,
    rest,
    search_with,
    shown,
    text,
    until,
)
from tests.serving import Served

AXE = Path(sys.prefix) / "npm/node_modules/axe-core/axe.min.js"  # `make` puts it there where there is npm
WEB = ROOT / "pipeline/service/web"

pytestmark = IN_A_BROWSER
browser, page, photographs, served, upload = FIXTURES


def test_a_phone_offers_its_camera(page: Page) -> None:
    is_shown = "document.getElementById('photograph').offsetParent !== null"
    assert not page.run(is_shown)
    page.send("Emulation.setTouchEmulationEnabled", enabled=True)
    try:
        assert page.run(is_shown)
        assert page.run("document.getElementById('camera').getAttribute('capture')") == "environment"
    finally:
        page.send("Emulation.setTouchEmulationEnabled", enabled=False)


def test_the_keyboard_alone_searches(page: Page, served: Served, upload: Path) -> None:
    page.send("Page.setInterceptFileChooserDialog", enabled=True)
    name = "(document.activeElement.id || document.activeElement.className || document.activeElement.tagName)"
    reached: list[str] = []
    while not reached or reached[-1] != "tile":
        page.key("Tab")
        reached.append(page.run(name))
        assert page.run("getComputedStyle(document.activeElement).outlineStyle") != "none", reached
        assert len(reached) < 20, reached
        if reached[-1] == "choose":
            page.key("Enter")
            page.wait("true")
            assert page.has_seen("Page.fileChooserOpened")
    assert reached[0] == "skip"
    assert reached[-6:-1] == ["home", "browse", "A", "choose", "crop-first", "class", "split"][-5:]
    page.key("ArrowDown")
    page.key("ArrowRight")
    page.key("Enter")
    until(page, "location.search.startsWith('?id=')")
    columns = page.run("getComputedStyle(images).gridTemplateColumns.split(' ').length")
    assert page.run("location.search") == f"?id={columns + 1}"
    assert page.run("document.activeElement.id") == "title"
    assert shown(page) == neighbors(served, id=columns + 1)
    page.send("Page.setInterceptFileChooserDialog", enabled=False)


def test_the_way_past_the_menu_leads_to_the_images_and_leaves_the_search(page: Page, upload: Path) -> None:
    search_with(page, upload)
    before = shown(page)
    page.run("document.querySelector('.skip').focus()")
    page.key("Enter")
    assert page.run("document.activeElement.id") == "images"
    page.key("Tab")
    assert page.run("document.activeElement === document.querySelector('.tile')")
    rest(page)
    assert shown(page) == before
    assert text(page, "title") == "What looks like my photograph.png"


STATES = ("empty", "results", "crop", "refused")


def bring_about(page: Page, state: str, upload: Path, text_file: Path) -> None:
    if state in ("results", "crop"):
        search_with(page, upload)
    if state == "crop":
        press(page, "crop")
        page.wait("document.getElementById('crop-dialog').open")
    if state == "refused":
        text_file.write_text("words")
        page.choose_file("#file", text_file)
        page.wait("!document.getElementById('pill').hidden")


@pytest.mark.parametrize("state", STATES)
def test_a_phone_holds_it(page: Page, state: str, upload: Path, tmp_path: Path) -> None:
    page.size(360, 740)
    bring_about(page, state, upload, tmp_path / "notes.txt")
    assert page.run("document.documentElement.scrollWidth") == 360
    over = (
        "[...document.querySelectorAll('body *')].filter((one) => one.offsetParent"
        " && !one.closest('.unseen, .skip')).filter((one) => { const box = one.getBoundingClientRect();"
        " return box.right > 361 || box.left < -1; })"
        ".map((one) => one.outerHTML.slice(0, 80))"
    )
    assert page.run(over) == []


def serious_faults(page: Page) -> Any:
    if not page.run("'axe' in window"):
        page.run(f"{AXE.read_text()}; 1")
    return page.run(
        "axe.run(document, {resultTypes: ['violations']}).then((result) => result.violations"
        ".filter((one) => ['serious', 'critical'].includes(one.impact))"
        ".map((one) => [one.id, one.nodes.map((node) => node.html.slice(0, 120))]))"
    )


@pytest.mark.skipif(SKIPS and not AXE.exists(), reason="no axe-core is installed")
@pytest.mark.parametrize("state", STATES)
def test_axe_finds_no_serious_fault(page: Page, state: str, upload: Path, tmp_path: Path) -> None:
    bring_about(page, state, upload, tmp_path / "notes.txt")
    for width in (360, 1200):
        for scheme in ("light", "dark"):
            page.size(width, 900)
            page.scheme(scheme)
            assert serious_faults(page) == [], (width, scheme)


def test_the_reference_has_every_operation(page: Page, served: Served) -> None:
    page.visit(f"{served.url}/docs")
    page.wait("document.querySelector('.operation')")
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith(served.url + "/")] == []
    titles = page.run("[...document.querySelectorAll('.operation h2')].map((title) => title.textContent)")
    paths = served.get("/openapi.json").json()["paths"]
    assert titles == [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]
    links = page.run("[...document.querySelectorAll('#contents a')].map((link) => link.hash.slice(1))")
    assert page.run(f"{json.dumps(links)}.every((id) => document.getElementById(id))")
    for words in ("min_score", "integer, 1 to 1,000; default 10", '"neighbors": [ {', "image=@photo.jpg"):
        assert page.run(f"document.body.textContent.includes({json.dumps(words)})"), words
    if AXE.exists():
        for scheme in ("light", "dark"):
            page.scheme(scheme)
            assert serious_faults(page) == []
    page.size(360, 740)
    assert page.run("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("path", sorted(WEB.iterdir()), ids=lambda path: path.name)
def test_a_file_of_the_page_is_small_and_runs_nothing_inline(path: Path) -> None:
    content = path.read_text()
    assert content.count("\n") <= 300
    assert max(map(len, content.splitlines())) <= 110 or path.suffix == ".svg"
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", content)  # no other host
    if path.suffix == ".html":
        assert not re.search(r"<script(?![^>]* src=)|<style|\s(style|on\w+)=", content)
    if path.suffix == ".js":
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", content)
