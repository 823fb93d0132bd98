"""The search page under hands that are quicker than the server: what is seen is what the address says."""

import json
import time
from pathlib import Path
from typing import Any

from tests.browser import Page
from tests.search_page import (
    A_PAGE,
    FIXTURES,
    IN_A_BROWSER,
    arrive,
    neighbors,
    press,
    rest,
    search_with,
    set_value,
    shown,
    text,
    until,
)
from tests.serving import Served

pytestmark = IN_A_BROWSER
browser, page, photographs, served, upload = FIXTURES

# Searches wait, from now on, until `window.go_on()`; one that is aborted meanwhile ends a little later.
HELD = """
(() => {
  const asked = window.fetch;
  const gate = new Promise((open) => { window.go_on = open; });
  window.fetch = async (url, options) => {
    if (!/v1\\/(search|images\\/)/.test(url)) return asked(url, options);
    await Promise.race([gate, new Promise((_, fail) => {
      options.signal?.addEventListener("abort", () => setTimeout(() => fail(options.signal.reason), 50));
    })]);
    return asked(url, options);
  };
})()
"""
SEA: dict[str, Any] = {"class": "sea"}
FILTERS = "['class', 'split'].map((id) => document.getElementById(id).value)"


def open_tile(page: Page, number: int) -> int:
    """Clicks the image of this number; gives its id when it is asked with."""
    id_ = shown(page)[number]
    page.run(f"document.querySelectorAll('.tile')[{number}].click()")
    until(page, f"new URLSearchParams(location.search).get('id') === '{id_}'")
    return id_


def come_back_slowly(page: Page, served: Served) -> int:
    """From an image that is remembered, back to one that is not, and is under way; gives the first."""
    arrive(page, served, "/?id=5")
    id_ = open_tile(page, 2)
    page.send("Page.reload")
    page.wait(f"document.title.includes('image {id_} ')")
    rest(page)
    page.run(HELD)
    page.run("history.back()")
    page.wait("location.search === '?id=5' && !document.getElementById('pill').hidden")
    return id_


def test_forth_again_before_the_way_back_is_done(page: Page, served: Served) -> None:
    id_ = come_back_slowly(page, served)
    page.run("history.forward()")
    page.wait(f"location.search === '?id={id_}'")
    rest(page)
    time.sleep(0.2)  # the one that was given up ends
    assert text(page, "title") == f"What looks like image {id_}"
    assert shown(page) == neighbors(served, id=id_)


def test_a_file_that_is_no_image_leaves_the_way_back_as_it_was(
    page: Page, served: Served, tmp_path: Path
) -> None:
    come_back_slowly(page, served)
    notes = tmp_path / "notes.txt"
    notes.write_text("nothing to see")
    page.choose_file("#file", notes)
    page.wait("document.getElementById('pill-words').textContent.startsWith('Searching with notes')")
    assert len(shown(page)) == A_PAGE  # those of before, until there is something else to show
    page.run("window.go_on()")
    page.wait("document.getElementById('pill-words').textContent.startsWith('notes.txt is not an image')")
    until(page, "document.title.includes('image 5 ')")
    assert page.run("location.search") == "?id=5"
    assert shown(page) == neighbors(served, id=5)
    assert text(page, "pill-words").startswith("notes.txt is not an image")


def test_filters_say_what_is_shown(page: Page, served: Served) -> None:
    arrive(page, served, "/?id=5")
    page.run(HELD)
    set_value(page, "class", "sea")
    page.wait("!document.getElementById('pill').hidden")
    press(page, "pill-close")
    page.wait(f"{FILTERS}.join() === ','")  # cancelled: it is all classes that are seen
    set_value(page, "class", "sea")
    set_value(page, "split", "test")  # before the class has come
    page.run("window.go_on()")
    until(page, "location.search === '?id=5&class=sea&split=test'")
    assert page.run(FILTERS) == ["sea", "test"]
    assert shown(page) == neighbors(served, id=5, split="test", **SEA)


def test_the_second_click_of_two_opens_nothing(page: Page, served: Served) -> None:
    arrive(page, served, "/?id=5")
    x, y = page.run(
        "(() => { const box = document.querySelectorAll('.tile')[4].getBoundingClientRect();"
        "return [box.x + 40, box.y + 40]; })()"
    )
    id_ = shown(page)[4]
    page.click(x, y)
    until(page, f"location.search === '?id={id_}'")
    for kind in ("mousePressed", "mouseReleased"):
        page.mouse(kind, x, y, button="left", clickCount=2)
    rest(page)
    time.sleep(0.2)
    assert page.run("location.search") == f"?id={id_}"


def test_a_cut_off_goes_with_its_own_address(page: Page, served: Served) -> None:
    arrive(page, served, "/?id=5")
    move = "document.getElementById('cut').focus()"
    page.run(move)
    page.key("ArrowRight")
    least = page.run("document.getElementById('cut').value")
    id_ = open_tile(page, 0)  # before it has come to rest
    page.run("history.back()")
    until(page, f"location.search === '?id=5&min={float(least):g}'")
    assert float(text(page, "cut-at")) == float(least)
    page.run("history.forward()")
    until(page, f"location.search.startsWith('?id={id_}')")
    page.run(move)
    page.key("ArrowRight")
    page.run("history.back()")
    until(page, "document.title.includes('image 5 ')")
    time.sleep(0.7)  # it would have come to rest
    assert page.run("location.search") == f"?id=5&min={float(least):g}"


def test_the_way_forth_and_a_reload_lead_where_one_was(page: Page, served: Served) -> None:
    arrive(page, served, "/")
    open_tile(page, 3)
    page.run("scrollTo(0, 500); 1")
    page.wait("history.state?.scroll === 500")
    page.run("history.back()")
    until(page, "location.search === ''")
    page.run("history.forward()")
    until(page, "location.search === '?id=3'")
    page.wait("scrollY === 500")
    page.send("Page.reload")
    page.wait("scrollY === 500")


def test_a_picture_is_kept_as_it_was_chosen(page: Page, served: Served, upload: Path) -> None:
    changing = upload.with_name("changing.png")
    changing.write_bytes(upload.read_bytes())
    search_with(page, changing)
    changing.write_bytes(b"something else")
    set_value(page, "class", "sea")
    until(page, "location.search === '?class=sea'")
    assert shown(page) == neighbors(served, file=upload, **SEA)


def test_a_folder_is_no_image_and_that_is_said(page: Page, tmp_path: Path) -> None:
    data = {"items": [], "files": [str(tmp_path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        page.send("Input.dispatchDragEvent", type=kind, x=600, y=500, data=data)
    page.wait("document.getElementById('pill').matches('.bad:not([hidden])')")
    assert text(page, "pill-words").startswith(f"{tmp_path.name} cannot be read: it is a folder")


def test_an_image_is_called_by_its_own_name(page: Page, tmp_path: Path) -> None:
    notes = tmp_path / 'a: "b".txt'
    notes.write_text("nothing to see")
    page.choose_file("#file", notes)
    words = f"{notes.name} is not an image that can be read: not an image of a format"
    page.wait(f"document.getElementById('pill-words').textContent.startsWith({json.dumps(words)})")


def test_a_filter_says_how_many_there_are_before_they_have_come(page: Page) -> None:
    page.run(  # of 90 images the first 60
        "(() => { const asked = window.fetch; window.fetch = async (url, options) => {"
        "const answer = await asked(url, options); if (!/v1\\/images\\?/.test(url)) return answer;"
        "const {images: [one], ...others} = await answer.json();"
        "const images = Array.from({length: 60}, (_, id) => ({...one, id}));"
        "return new Response(JSON.stringify({...others, total: 90, images})); }; })()"
    )
    set_value(page, "class", "sea")
    set_value(page, "split", "train")
    until(page, "location.search === '?class=sea&split=train'")
    assert text(page, "count") == "60 of 90 images"
