"""The search page where something is amiss, or large, or empty: what it says, and that it goes on."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.params.index import Index
from pipeline.search.from_arrays.folder import Given, build_folder
from tests.browser import Page
from tests.index_folders import Photographs, index_made_up
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
from tests.serving import Served, serving

TOKEN = "a-secret-of-many-letters"

pytestmark = IN_A_BROWSER
browser, page, photographs, served, upload = FIXTURES


def test_a_text_file_is_refused_in_plain_words(page: Page, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("nothing to see")
    page.choose_file("#file", notes)
    page.wait("document.getElementById('pill').matches('.bad:not([hidden])')")
    words = text(page, "pill-words")
    assert words.startswith("notes.txt is not an image that can be read: ")
    assert text(page, "said") == words
    assert text(page, "title") == "Find images that look alike"  # nothing else has changed
    assert page.run("location.search") == ""
    press(page, "pill-close")
    assert page.run("document.getElementById('pill').hidden")


def test_what_there_is_not_is_said(page: Page, served: Served) -> None:
    arrive(page, served, "/?id=99999")
    assert "99999" in text(page, "nothing")
    assert text(page, "pill-words") == text(page, "nothing")
    arrive(page, served, "/?class=unicorns")
    assert "unicorns" in text(page, "pill-words")
    assert page.run("document.getElementById('class').value") == "unicorns"


def test_a_slow_answer_is_cancelled_or_superseded(page: Page, served: Served) -> None:
    network: dict[str, Any] = {"offline": False, "downloadThroughput": -1, "uploadThroughput": -1}
    page.send("Network.emulateNetworkConditions", latency=1500, **network)
    try:
        page.run("document.querySelectorAll('.tile')[5].click()")
        page.wait("!document.getElementById('pill').hidden")
        assert text(page, "pill-words") == "Searching …"
        press(page, "pill-close")
        rest(page)
        assert text(page, "said") == "Cancelled."
        assert page.run("location.search") == ""
    finally:
        page.send("Network.emulateNetworkConditions", latency=0, **network)
    page.run(  # the answer to the first comes last, whatever is aborted
        "(() => { const asked = window.fetch; window.fetch = async (url, options) => {"
        "if (!String(url).includes('id=6')) return asked(url, options);"
        "const answer = await asked(url, {...options, signal: null});"
        "await new Promise((done) => setTimeout(done, 500));"
        "window.isLate = true; return answer; }; })()"
    )
    page.run("document.querySelectorAll('.tile')[6].click()")
    page.run("document.querySelectorAll('.tile')[7].click()")
    until(page, "location.search === '?id=7'")
    page.wait("window.isLate")
    time.sleep(0.1)
    assert page.run("location.search") == "?id=7"
    assert shown(page) == neighbors(served, id=7)


def test_a_server_that_has_gone_is_said_and_asked_again(page: Page) -> None:
    network: dict[str, Any] = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.send("Network.emulateNetworkConditions", offline=True, **network)
    page.run("document.querySelectorAll('.tile')[5].click()")
    page.wait("!document.getElementById('pill-again').hidden")
    assert text(page, "pill-words") == "The server does not answer. Is it still running?"
    page.send("Network.emulateNetworkConditions", offline=False, **network)
    press(page, "pill-again")
    until(page, "location.search === '?id=5'")


def test_a_server_that_is_full_is_asked_again_in_a_while(page: Page) -> None:
    page.run(
        "(() => { const asked = window.fetch; let tries = 0; window.fetch = (url, options) => {"
        "if (!String(url).includes('/v1/search') || (tries += 1) > 1) return asked(url, options);"
        "return Promise.resolve(new Response('{}', {status: 503, headers: {'Retry-After': '1'}})); }; })()"
    )
    page.run("document.querySelectorAll('.tile')[5].click()")
    page.wait("document.getElementById('pill-words').textContent.endsWith('It is asked again in 1 second.')")
    until(page, "location.search === '?id=5'")
    assert len(shown(page)) == A_PAGE
    assert page.run("document.getElementById('pill').hidden")


def test_what_is_too_large_is_not_sent(page: Page, served: Served, tmp_path: Path) -> None:
    path, most = tmp_path / "large.tif", served.get("/v1/collection").json()["limits"]["body_bytes"]
    with path.open("wb") as file:
        file.truncate(most + 1)
    before = len(page.requests)
    page.choose_file("#file", path)
    page.wait("!document.getElementById('pill').hidden")
    assert text(page, "pill-words") == f"large.tif has {most + 1:,} bytes, the server takes at most {most:,}."
    assert len(page.requests) == before
    page.key("Escape")
    page.wait("document.getElementById('pill').hidden")


def test_another_generation_is_taken_over(browser: Page, tmp_path: Path) -> None:
    index_made_up(tmp_path / "index", 300, 3)
    index_made_up(tmp_path / "next", 200, 4)
    with serving(tmp_path / "index") as server:
        arrive(browser, server, "/")
        assert text(browser, "count") == "60 of 300 images"
        (tmp_path / "index").rename(tmp_path / "before")
        (tmp_path / "next").rename(tmp_path / "index")
        deadline = time.monotonic() + 20
        while server.get("/v1/collection").json()["count"] == 300:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        press(browser, "more")
        until(browser, "document.getElementById('count').textContent.endsWith(' of 200 images')")
        assert shown(browser) == list(range(len(shown(browser))))
        browser.run("document.querySelectorAll('.tile')[5].click()")
        until(browser, "location.search === '?id=5'")
        assert shown(browser) == neighbors(server, id=5)
        assert text(browser, "eyebrow") == "200 images in 4 classes"
        assert browser.complaints == []


def test_an_empty_collection_is_said_and_can_be_searched(browser: Page, tmp_path: Path, upload: Path) -> None:
    index_made_up(tmp_path / "index", 0, 1)
    with serving(tmp_path / "index") as server:
        arrive(browser, server, "/")
        assert text(browser, "nothing").startswith("The collection is empty: ")
        search_with(browser, upload)
        assert text(browser, "nothing").startswith("The collection is empty: ")
        assert shown(browser) == []
        assert browser.complaints == []


@pytest.mark.slow
def test_a_million_images_of_a_thousand_classes_stay_quick(browser: Page, tmp_path: Path) -> None:
    index_made_up(tmp_path / "index", 1_000_000, 1_000)
    with serving(tmp_path / "index") as server:
        browser.size(1200, 900)
        arrive(browser, server, "/")
        assert text(browser, "count") == "60 of 1,000,000 images"
        assert browser.run("document.querySelectorAll('*').length") < 1_000
        began = time.monotonic()
        browser.run("document.querySelectorAll('.tile')[9].click()")
        until(browser, "location.search === '?id=9'")
        assert time.monotonic() - began < 10  # a second on two cores that do nothing else
        assert len(shown(browser)) == A_PAGE
        set_value(browser, "class-search", "class 77", "input")
        offered = browser.run("[...document.querySelectorAll('#classes option')].map((one) => one.value)")
        assert offered[0] == "class 77"
        assert len(offered) == 11
        set_value(browser, "class-search", "class 77")
        until(browser, "location.search.includes('class=class+77')")
        assert (
            browser.run("new Set([...document.querySelectorAll('.caption')].map((e) => e.textContent)).size")
            == 1
        )
        set_value(browser, "class-search", "class of 77")
        browser.wait("!document.getElementById('pill').hidden")
        assert text(browser, "pill-words") == "There is no class class of 77."
        assert browser.complaints == []


def test_a_token_is_asked_for_once(browser: Page, photographs: Photographs, upload: Path) -> None:
    with serving(photographs.folder, environment={"LOOKALIKE_TOKEN": TOKEN}) as server:
        browser.visit(server.url)
        for word in ("wrong-but-long-enough", TOKEN):
            browser.wait("document.getElementById('token-dialog').open")
            browser.run(f"document.getElementById('token').value = {word!r}; 1")
            browser.run("document.getElementById('token-form').requestSubmit()")
            browser.wait("!document.getElementById('token-dialog').open || token.value === ''")
        rest(browser)
        assert len(shown(browser)) == A_PAGE
        search_with(browser, upload)
        assert len(shown(browser)) == A_PAGE
        assert browser.run("sessionStorage.length") == 1
        browser.run("sessionStorage.clear()")


# A server that says it has thumbnails, and gives those that are fetched with a token.
WITH_THUMBNAILS = """
const asked = window.fetch, madeUrl = URL.createObjectURL;
window.made = 0;
URL.createObjectURL = (blob) => { window.made += 1; return madeUrl.call(URL, blob); };
window.fetch = async (url, options) => {
  const isPicture = /images\\/\\d+/.test(url);
  if (isPicture) {
    window.borne = options.headers.Authorization;
    const canvas = new OffscreenCanvas(32, 32), pen = canvas.getContext("2d");
    pen.fillStyle = "teal";
    pen.fillRect(0, 0, 32, 32);
    return new Response(await canvas.convertToBlob());
  }
  const answer = await asked(url, options);
  if (!String(url).endsWith("/v1/collection") || !answer.ok) return answer;
  return new Response(JSON.stringify({...await answer.json(), thumbnails: true}));
};
"""


def test_thumbnails_are_pictures_and_words_where_one_is_missing(browser: Page, tmp_path: Path) -> None:
    index_made_up(tmp_path / "index", 100, 3)
    words = "class class 0, test image 0"
    script = browser.send("Page.addScriptToEvaluateOnNewDocument", source=WITH_THUMBNAILS)["identifier"]
    try:
        with serving(tmp_path / "index") as server:
            arrive(browser, server, "/")  # pictures by their address: the server has none
            browser.wait("document.querySelector('.tile .blank')")
            assert browser.run("document.querySelector('.tile .blank').ariaLabel") == words
            assert any(url.endswith(f"/v1/images/0?manifest={'0' * 12}") for url in browser.requests)
        with serving(tmp_path / "index", environment={"LOOKALIKE_TOKEN": TOKEN}) as server:
            browser.visit(server.url)
            browser.wait("document.getElementById('token-dialog').open")
            browser.run(f"document.getElementById('token').value = {TOKEN!r}; 1")
            browser.run("document.getElementById('token-form').requestSubmit()")
            browser.wait("document.querySelectorAll('img.pic').length === 60")
            browser.wait("document.querySelectorAll('img.pic.coarse').length > 8")  # those in sight
            assert browser.run("window.borne") == f"Bearer {TOKEN}"
            assert browser.run("document.querySelector('img.pic').alt") == words
            browser.run("document.querySelectorAll('.tile')[3].click()")
            until(browser, "location.search === '?id=3'")
            assert browser.run("window.made") == 0  # pictures that are never seen leave nothing behind
            press(browser, "crop")  # an image of the collection is cropped like any other
            browser.wait("document.getElementById('crop-dialog').open")
            press(browser, "crop-search")
            until(
                browser, "document.getElementById('query-words').textContent === 'A part of 30 × 30 pixels'"
            )
            assert browser.run("location.search") == ""
            browser.run("sessionStorage.clear()")
    finally:
        browser.send("Page.removeScriptToEvaluateOnNewDocument", identifier=script)


def test_without_an_encoder_it_offers_no_upload_and_goes_on_from_an_image(
    browser: Page, tmp_path: Path, upload: Path
) -> None:
    np.save(tmp_path / "all.npy", np.random.default_rng(0).standard_normal((90, 8), dtype=np.float32))
    params = Index(factory="Flat", memory_gib=1, target_recall=0.9, num_queries=9, seed=0, thumbnail_size=0)
    build_folder(Given([tmp_path / "all.npy"]), tmp_path / "index", params)
    with serving(tmp_path / "index") as served:
        arrive(browser, served, "/")
        assert browser.run("document.getElementById('intake').hidden")
        assert not browser.run("document.getElementById('no-encoder').hidden")
        browser.choose_file("#file", upload)  # as a drop or a paste would
        browser.wait("!document.getElementById('pill').hidden")
        assert "no encoder" in text(browser, "pill-words")
        press(browser, "pill-close")
        browser.run("document.querySelectorAll('.tile')[5].click()")
        until(browser, "location.search === '?id=5'")
        assert shown(browser) == neighbors(served, id=5)
        assert not browser.run(
            "['another', 'photograph-another', 'crop'].some((id) => !document.getElementById(id).hidden)"
        )
        assert browser.complaints == []
