"""The page in a real browser: what it draws, what it answers, and that it asks nothing of a network."""

import csv
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.params.reader import Params
from pipeline.report.page import make_page
from pipeline.report.run import read_run
from tests.browser import CHROMIUM, Page, open_browser
from tests.report_run import HOSTILE, make_run, some_findings
from tests.test_report import THRESHOLDS, groups_at

# `make` puts it there where there is npm
AXE = Path(sys.prefix) / "npm/node_modules/axe-core/axe.min.js"
SKIPS = not os.environ.get("CI")  # what CI lacks, CI has to install

pytestmark = [
    pytest.mark.skipif(SKIPS and CHROMIUM is None, reason="no chromium is installed"),
    pytest.mark.xdist_group("browser"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Iterator[Page]:
    """The page of a run made by hand, open in a window 1,200 px wide."""
    folder = tmp_path_factory.mktemp("page")
    file = folder / "index.html"
    file.write_text(make_page(read_run(make_run(folder / "data"), THRESHOLDS), params.report))
    (folder / "profile").mkdir()
    with open_browser(folder / "profile") as browser:
        browser.size(1200, 900)
        browser.scheme("light")
        browser.open(file)
        browser.run("allDrawn.then(() => 1)")
        yield browser


@pytest.fixture(autouse=True)
def as_it_opened(page: Page) -> None:
    page.size(1200, 900)
    page.scheme("light")
    page.run("scrollTo({top: 0, behavior: 'instant'}); document.activeElement.blur(); 1")


def show(page: Page, selector: str) -> None:
    """Into the middle of the window."""
    where = f"document.querySelector({json.dumps(selector)})"
    page.run(f"{where}.scrollIntoView({{block: 'center', behavior: 'instant'}}); 1")


def middle_of_a_point(page: Page, place: int = 0) -> tuple[float, float]:
    """Where an image of the map lies in the window."""
    show(page, "#map")
    page.wait("document.getElementById('map').dataset.painted > 0")
    x, y = page.run(
        f"(() => {{ const box = document.getElementById('map').getBoundingClientRect();"
        f"const [x, y] = map.place({place}); return [box.x + x, box.y + y]; }})()"
    )
    return x, y


def test_it_opens_without_a_complaint_and_asks_for_nothing(page: Page) -> None:
    assert page.complaints == []
    outside = [url for url in page.requests if not url.startswith("data:")]
    assert outside == [page.file.as_uri()]
    assert page.run("window.hacked") is None  # no class name ran
    assert page.run("document.querySelectorAll('.chart[data-drawn] svg').length") == page.run(
        "Object.values(figures).filter((figure) => figure.chart).length"
    )


def test_every_picture_is_there_and_has_its_words(page: Page) -> None:
    drawn = page.run(
        """Promise.all([...document.querySelectorAll('.pic')].map(async (tile) => {
             const style = getComputedStyle(tile), sheet = new Image();
             sheet.src = style.backgroundImage.slice(5, -2);
             await sheet.decode();
             const number = (name) => Number(style.getPropertyValue(name));
             return [sheet.naturalWidth / number('--c'), sheet.naturalHeight / number('--r'),
                     number('--x') < number('--c') && number('--y') < number('--r'), tile.ariaLabel];
           }))"""
    )
    assert len(drawn) > 150
    for width, height, is_within, words in drawn:
        assert (width, height, is_within) == (32, 32, True)
        assert len(words) > 8


def test_every_chart_has_words_and_its_figures_can_be_had(page: Page) -> None:
    charts = page.run("[...document.querySelectorAll('.chart')].map((chart) => chart.ariaLabel)")
    assert len(charts) >= 8
    assert len(min(charts, key=len)) > 20, charts
    assert "Vega" not in " ".join(charts)
    named = page.run("[...document.querySelectorAll('.copy')].map((button) => button.dataset.figure)")
    assert {"headline", "search", "mistakes", "map", "recall", "confusion", "few-labels"} < set(named)
    for name in named:
        rows = list(csv.reader(io.StringIO(page.run(f"csv({json.dumps(name)})"))))
        assert len({len(row) for row in rows}) == 1, name
        assert len(rows) > 1, name
    recall = list(csv.DictReader(io.StringIO(page.run("csv('recall')"))))
    assert {row["class"] for row in recall} >= set(HOSTILE[:3])
    assert page.run("cell('=1+1')") == "'=1+1"  # for a spreadsheet a word, too
    assert page.run("cell(-1)") == "-1"


def test_a_figure_is_copied_or_shown_to_be_copied(page: Page) -> None:
    show(page, ".copy[data-figure=headline]")
    page.run(
        "navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }; 1"
    )
    page.run("document.querySelector('.copy[data-figure=headline]').click()")
    page.wait("document.getElementById('said').textContent === 'Copied as CSV.'")
    assert page.run("window.copied === csv('headline')")
    page.run("navigator.clipboard.writeText = () => Promise.reject(new Error('refused')); 1")
    page.run("document.querySelector('.copy[data-figure=recall]').click()")
    page.wait("document.querySelector('.csv[data-figure=recall]').open")
    assert page.run("getSelection().toString().trim() === csv('recall').trim()")


def test_the_map_answers_the_pointer(page: Page) -> None:
    x, y = middle_of_a_point(page)
    page.mouse("mouseMoved", x, y)
    page.wait("!document.getElementById('map-tip').hidden")
    under = page.run("map.state().hovered")
    words = page.run("document.querySelector('#map-tip .pic').ariaLabel")
    assert words.endswith(f"image {page.run(f'map.data.sources[{under}].match(/[0-9]+/)[0]')}")
    page.click(x, y)
    page.wait("document.querySelectorAll('#map-detail button').length === 10")
    assert page.run("map.state().chosen") == under
    before = page.run("map.state()")
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-400)  # it was clicked: the wheel is its own
    page.wait(f"map.state().zoom > {before['zoom']} * 2")
    page.mouse("mousePressed", x, y, button="left", clickCount=1)
    page.mouse("mouseMoved", x + 60, y + 30, button="left", buttons=1)
    page.mouse("mouseReleased", x + 60, y + 30, button="left", clickCount=1)
    assert page.run("map.state().cx") < before["cx"] + 1
    assert page.run("map.state().chosen") == under  # a drag chooses nothing
    page.run("document.getElementById('map-all').click()")
    assert page.run("map.state().zoom") == 1


def test_the_neighbours_of_the_map_are_the_nearest(page: Page) -> None:
    x, y = middle_of_a_point(page, 5)
    page.click(x, y)
    page.wait("document.querySelectorAll('#map-detail button').length === 10")
    cosines = page.run(
        "[...document.querySelectorAll('#map-detail button')]"
        ".map((one) => Number(one.textContent.split(' ').pop()))"
    )
    assert cosines == sorted(cosines, reverse=True)
    page.run("document.querySelector('#map-detail button').click()")  # and goes on to the next
    assert page.run("document.activeElement.closest('#map-detail') !== null")


def test_keys_alone_reach_everything_and_move_the_map(page: Page) -> None:
    reached: list[str] = []
    name = (
        "(() => { const e = document.activeElement; return e === document.body ? '' : "
        "e.id || e.dataset.figure || e.getAttribute('href') || e.className || e.parentElement.dataset.figure"
        " || e.tagName; })()"
    )
    page.open(page.file)
    page.run("allDrawn.then(() => 1)")
    page.key("Tab")
    for _ in range(120):
        reached.append(page.run(name))
        if reached[-1] == "":
            break
        style = "getComputedStyle(document.activeElement)"
        assert page.run(f"{style}.outlineStyle !== 'none'"), reached[-1]
        page.key("Tab")
    assert reached[0] == "#main"  # the way past the menu
    wanted = {
        "#search",
        "map-pick",
        "map-in",
        "map",
        "near_duplicate-slider",
        "label-slider",
        "headline",
    }
    assert wanted <= set(reached)
    page.run("document.getElementById('map').focus(); 1")
    page.key("ArrowRight")
    first = page.run("map.state().chosen")
    assert first >= 0
    for key, direction in (("ArrowRight", 1), ("ArrowLeft", -1)):
        before = page.run("map.place(map.state().chosen)[0]")
        page.key(key)
        after = page.run("map.place(map.state().chosen)[0]")
        assert (after - before) * direction >= 0
    page.key("+")
    assert page.run("map.state().zoom") > 1
    page.key("Enter")
    page.wait("document.querySelectorAll('#map-detail button').length === 10")
    assert page.run("document.getElementById('said').textContent.length") > 5
    page.key("0")


def test_the_slider_moves_the_duplicates_as_the_rule_says(page: Page) -> None:
    table = [(set(ids), score) for kind, ids, score, _ in some_findings() if kind == "near_duplicate"]
    groups, scores = [sorted(ids) for ids, _ in table], [score for _, score in table]
    for threshold in (0.99, 0.985, 0.97, 0.96, 0.95, 0.93, 0.915, 0.91):
        page.run(
            "(() => { const slider = document.getElementById('near_duplicate-slider');"
            f"slider.value = {threshold}; slider.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
        )
        assert page.run("Number(document.getElementById('near_duplicate-slider').value)") == threshold
        expected = groups_at(groups, scores, threshold)
        seen: list[list[int]] = page.run(
            "[...document.querySelectorAll('#findings-near_duplicate .groups > li')]"
            ".filter((item) => item.offsetParent !== null).map((item) => "
            "[...item.querySelectorAll('.pic')].map((tile) => Number(tile.ariaLabel.split(' ').pop())))"
        )
        assert {frozenset(group) for group in seen} == expected
        num = sum(map(len, expected))
        words = f"{len(expected)} group{'s' if len(expected) != 1 else ''}, {num} images"
        assert page.run("document.querySelector('#findings-near_duplicate .count').textContent") == words


def test_a_key_moves_the_slider_and_a_button_shows_more(page: Page) -> None:
    show(page, "#label-slider")
    page.run("document.getElementById('label-slider').focus(); 1")
    at = "Number(document.getElementById('label-slider').value)"
    before = page.run(at)
    page.key("ArrowLeft")
    assert before > page.run(at) > before - 0.02
    page.run(
        "(() => { const slider = document.getElementById('label-slider');"
        "slider.value = 0; slider.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    shown = (
        "[...document.querySelectorAll('#findings-label .groups > li')]"
        ".filter((item) => item.offsetParent !== null).length"
    )
    assert page.run(shown) == 24
    assert "24 of 30 are shown" in page.run("document.querySelector('#findings-label .left').textContent")
    page.run("document.querySelector('#findings-label .further').click()")
    assert page.run(shown) == 30


@pytest.mark.parametrize("width", [360, 768])
def test_a_narrow_window_holds_it(page: Page, width: int) -> None:
    page.size(width, 740)
    page.wait(f"document.documentElement.scrollWidth <= {width}")
    over = (
        "[...document.querySelectorAll('main *')].filter((one) => !one.closest('pre, .unseen, svg g')"
        " && one.getBoundingClientRect().right > innerWidth + 1)"
    )
    page.wait(f"{over}.length === 0")  # charts follow the window a moment later


def test_the_dark_scheme_is_drawn_anew(page: Page) -> None:
    ink = "getComputedStyle(document.querySelector('.chart svg text')).fill"
    light = page.run(ink)
    page.scheme("dark")
    page.wait(f"{ink} !== {json.dumps(light)}")
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 21, 24)"


@pytest.mark.skipif(SKIPS and not AXE.exists(), reason="no axe-core is installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_axe_finds_no_serious_fault(page: Page, scheme: str, width: int) -> None:
    page.size(width, 900)
    page.scheme(scheme)
    if not page.run("'axe' in window"):
        page.run(f"{AXE.read_text()}; 1")
    found = page.run(
        "axe.run(document, {resultTypes: ['violations']}).then((result) => result.violations"
        ".filter((one) => ['serious', 'critical'].includes(one.impact))"
        ".map((one) => [one.id, one.nodes.map((node) => node.html.slice(0, 120))]))"
    )
    assert found == []


def test_nothing_that_was_done_here_made_it_complain(page: Page) -> None:
    assert page.complaints == []
    assert not [url for url in page.requests if not url.startswith(("data:", "file:"))]
