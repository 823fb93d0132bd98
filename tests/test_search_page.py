"""The search page in a real browser, before a real server: what it finds, and the way there and back."""

import csv
import io
import json
import re
import time
from pathlib import Path

from PIL import Image

from tests.browser import Page
from tests.index_folders import HOSTILE_CLASS, HOSTILE_SOURCE
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


def test_it_opens_without_a_complaint_and_asks_no_other_host(page: Page, served: Served) -> None:
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith(served.url + "/")] == []
    assert text(page, "eyebrow") == "300 images in 7 classes"
    assert text(page, "count") == "60 of 300 images"
    assert shown(page) == list(range(A_PAGE))


def test_an_upload_gives_the_neighbours_that_the_api_gives(page: Page, served: Served, upload: Path) -> None:
    search_with(page, upload)
    assert shown(page) == neighbors(served, file=upload)
    assert text(page, "title") == "What looks like my photograph.png"
    assert "has no address" in text(page, "query-note")
    assert page.run("document.getElementById('copy').hidden")
    assert "60 images, scores " in text(page, "said")
    scores = page.run("[...document.querySelectorAll('.score')].map((one) => Number(one.textContent))")
    assert scores == sorted(scores, reverse=True)
    assert page.run("document.querySelector('#query-picture img').naturalWidth") == 60
    assert page.complaints == []


def test_an_image_is_dropped_or_pasted(page: Page, served: Served, upload: Path) -> None:
    data = {"items": [], "files": [str(upload)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver"):
        page.send("Input.dispatchDragEvent", type=kind, x=600, y=500, data=data)
    page.wait("!document.getElementById('over').hidden")
    page.send("Input.dispatchDragEvent", type="drop", x=600, y=500, data=data)
    until(page, "document.title.includes('my photograph.png')")
    assert page.run("document.getElementById('over').hidden")
    assert shown(page) == neighbors(served, file=upload)
    page.run(
        f"(async () => {{ const bytes = Uint8Array.from({json.dumps(list(upload.read_bytes()))});"
        "const data = new DataTransfer();"
        "data.items.add(new File([bytes], 'image.png', {type: 'image/png'}));"
        "dispatchEvent(new ClipboardEvent('paste', {clipboardData: data})); })()"
    )
    until(page, "document.title.includes('pasted image')")
    assert shown(page) == neighbors(served, file=upload)


def test_one_goes_on_from_a_neighbour_and_comes_back(page: Page, served: Served, upload: Path) -> None:
    search_with(page, upload)
    first = shown(page)
    page.run("document.querySelectorAll('.tile')[2].click()")
    until(page, f"location.search === '?id={first[2]}'")
    assert shown(page) == neighbors(served, id=first[2])
    assert first[2] not in shown(page)
    page.run("history.back()")
    until(page, "location.search === ''")
    assert shown(page) == first  # from memory: an upload has no address
    assert text(page, "title") == "What looks like my photograph.png"
    assert page.run("document.activeElement.closest('li')?.dataset.id") == str(first[2])
    page.run("history.forward()")
    until(page, f"location.search === '?id={first[2]}'")
    assert shown(page) == neighbors(served, id=first[2])


def test_an_upload_is_gone_with_the_page_and_that_is_said(page: Page, upload: Path) -> None:
    search_with(page, upload)
    page.send("Page.reload")
    page.wait("document.getElementById('pill-words')?.textContent.startsWith('That picture was kept only')")
    assert text(page, "title") == "Find images that look alike"
    assert len(shown(page)) == A_PAGE
    other = upload.with_name("another.png")
    Image.open(upload).rotate(180).save(other)
    search_with(page, other)
    page.run("history.back()")  # to the one that is gone, not to the first of this page
    page.wait("document.getElementById('pill-words').textContent.startsWith('That picture was kept only')")
    rest(page)
    assert text(page, "title") == "Find images that look alike"


def test_an_address_gives_its_results_to_whoever_opens_it(page: Page, served: Served) -> None:
    expected = neighbors(served, id=17, **{"class": "sea", "split": "train"})
    response = served.post("/v1/search?id=17&k=60&class=sea&split=train&min_score=0.2").json()
    kept = len(response["answers"][0]["neighbors"])
    arrive(page, served, "/?id=17&class=sea&split=train&min=0.2")
    assert 0 < kept < len(expected)
    assert shown(page) == expected[:kept]
    assert page.run("['class', 'split'].map((id) => document.getElementById(id).value)") == ["sea", "train"]
    assert text(page, "cut-at") == "0.200"
    page.run(
        "navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }; 1"
    )
    press(page, "copy")
    page.wait("window.copied === location.href")
    page.run("navigator.clipboard.writeText = () => Promise.reject(new Error('refused')); 1")
    press(page, "copy")
    page.wait("getSelection().toString() === location.href || document.activeElement.id === 'address'")
    assert page.run("document.getElementById('address').value === location.href")


def test_a_crop_by_keys_is_what_is_searched_with(page: Page, served: Served, upload: Path) -> None:
    search_with(page, upload)
    whole = shown(page)
    press(page, "crop")
    page.wait("document.activeElement.id === 'crop-canvas'")
    press(page, "crop-all")
    page.run("document.getElementById('crop-canvas').focus()")
    for _ in range(25):
        page.key("ArrowLeft", shift=True)
    page.key("ArrowRight")
    page.key("ArrowDown")  # there is no room below
    fields = ("x", "y", "width", "height")
    frame = [page.run(f"document.getElementById('crop-{side}').value") for side in fields]
    assert frame == ["1", "0", "35", "48"]
    assert text(page, "crop-size") == "35 × 48 of 60 × 48 pixels"
    page.key("Enter")
    until(page, "document.getElementById('query-words').textContent === 'A part of 35 × 48 pixels'")
    part = upload.with_name("part.png")
    Image.open(upload).crop((1, 0, 36, 48)).save(part)
    assert shown(page) == neighbors(served, file=part) != whole


def test_a_crop_by_pointer_is_of_the_upright_picture(page: Page, served: Served, tmp_path: Path) -> None:
    """A JPEG that a camera laid on its side, and says so."""
    upright = Image.new("RGB", (400, 600), "navy")
    upright.paste("orange", (0, 0, 400, 150))
    path, exif = tmp_path / "sideways.jpg", Image.Exif()
    exif[0x0112] = 6
    upright.rotate(90, expand=True).save(path, exif=exif, quality=95)
    press(page, "crop-first")
    page.choose_file("#file", path)
    page.wait("document.getElementById('crop-dialog').open")
    assert text(page, "crop-size").endswith("of 400 × 600 pixels")
    box = page.run(
        "(() => { const box = document.getElementById('crop-canvas').getBoundingClientRect();"
        "return [box.x, box.y, box.width / 400]; })()"
    )
    x, y, scale = box
    page.mouse("mousePressed", x + 100 * scale, y + 200 * scale, button="left", clickCount=1)
    page.mouse("mouseMoved", x + 200 * scale, y + 300 * scale, button="left", buttons=1)
    page.mouse("mouseMoved", x + 300 * scale, y + 500 * scale, button="left", buttons=1)
    page.mouse("mouseReleased", x + 300 * scale, y + 500 * scale, button="left", clickCount=1)
    size = re.match(r"(\d+) × (\d+) ", text(page, "crop-size"))
    assert size is not None
    assert abs(int(size[1]) - 200) <= 3
    assert abs(int(size[2]) - 300) <= 3
    press(page, "crop-search")
    until(page, "document.getElementById('query-words').textContent.startsWith('A part of ')")
    seen = page.run(
        "(() => { const picture = document.querySelector('#query-picture img');"
        "const canvas = document.createElement('canvas'); const pen = canvas.getContext('2d');"
        "pen.drawImage(picture, 0, 0); return [...pen.getImageData(5, 5, 1, 1).data]; })()"
    )
    assert seen[2] > 100 > seen[0]  # navy: none of the orange that lies above
    assert page.complaints == []


def test_escape_leaves_the_crop_and_the_results_as_they_were(page: Page, upload: Path) -> None:
    search_with(page, upload)
    before = shown(page)
    press(page, "crop")
    page.wait("document.getElementById('crop-dialog').open")
    page.key("Escape")
    page.wait("!document.getElementById('crop-dialog').open")
    rest(page)
    assert shown(page) == before
    assert text(page, "query-words") == ""


def test_a_filter_leaves_images_of_a_class_and_split(page: Page, served: Served, upload: Path) -> None:
    set_value(page, "class", "forests")
    until(page, "location.search === '?class=forests'")
    listed = served.get("/v1/images", params={"class": "forests", "limit": 1000}).json()["images"]
    assert shown(page) == [row["id"] for row in listed]
    assert text(page, "count") == f"{len(listed)} images"
    search_with(page, upload)
    assert shown(page) == neighbors(served, file=upload, **{"class": "forests"})
    set_value(page, "split", "test")
    until(page, "location.search.includes('split=test')")
    assert shown(page) == neighbors(served, file=upload, **{"class": "forests", "split": "test"})
    page.run("history.back()")
    until(page, "!location.search.includes('split')")
    assert page.run("document.getElementById('split').value") == ""
    assert len(shown(page)) == len(listed)


def test_the_cut_off_hides_what_scores_less_and_says_how_many_are_left(page: Page, served: Served) -> None:
    arrive(page, served, "/?id=3")
    scores = page.run("[...document.querySelectorAll('.score')].map((one) => Number(one.textContent))")
    before = len(page.requests)
    page.run("document.getElementById('cut').focus()")
    page.key("ArrowRight")
    page.key("ArrowRight")
    least = page.run("Number(document.getElementById('cut').value)")
    left = len(shown(page))
    assert left == sum(score >= least for score in scores) < len(scores)
    page.wait(f"document.getElementById('said').textContent.startsWith('{left} images of 60, scores ')")
    assert page.run("location.search") == f"?id=3&min={least:g}"
    assert page.run("document.querySelector('.tile').search").endswith(f"min={least:g}")
    assert len(page.requests) == before  # at once: nothing was asked
    page.key("End")
    if not shown(page):
        assert text(page, "nothing") == "No neighbour has such a score: move the cut-off down."
    page.key("Home")
    page.wait("location.search === '?id=3'")
    assert len(shown(page)) == A_PAGE


def test_more_come_while_scrolling_and_by_a_button(page: Page, served: Served, upload: Path) -> None:
    search_with(page, upload)
    press(page, "more")
    until(page, "document.querySelectorAll('.tile').length > 60")
    assert page.run(f"document.activeElement === document.querySelectorAll('.tile')[{A_PAGE}]")
    deadline = time.monotonic() + 20
    while not page.run("document.getElementById('more').hidden"):
        assert time.monotonic() < deadline
        page.run("scrollTo(0, document.documentElement.scrollHeight); 1")
        time.sleep(0.05)
    rest(page)
    assert shown(page) == neighbors(served, file=upload, k=300)
    assert len(shown(page)) == 300


def test_the_results_are_downloaded_as_csv(page: Page, served: Served, tmp_path: Path) -> None:
    page.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    arrive(page, served, f"/?id=3&class={HOSTILE_CLASS}")
    press(page, "download")
    path = tmp_path / "lookalike-3.csv"
    deadline = time.monotonic() + 20
    while not path.exists() or not path.stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    content = path.read_bytes().decode()
    header, row = csv.reader(io.StringIO(content, newline=""))
    assert header == ["query", "rank", "score", "class_name", "id", "source", "split"]
    (found,) = served.post("/v1/search?id=3", params={"class": HOSTILE_CLASS}).json()["answers"][0][
        "neighbors"
    ]
    assert float(row[2]) == found["score"]
    # a spreadsheet must not take a name for a formula
    assert row[3:] == [HOSTILE_CLASS, str(found["id"]), f"'{HOSTILE_SOURCE}", found["split"]]
    assert content.endswith("\r\n")


def test_a_class_that_is_markup_is_a_word(page: Page, served: Served) -> None:
    arrive(page, served, f"/?class={HOSTILE_CLASS}")
    assert page.run("document.querySelector('.caption').textContent") == HOSTILE_CLASS
    assert page.run("document.querySelector('.source').title") == HOSTILE_SOURCE
    assert page.run("document.querySelectorAll('main script, main b b, #images b[onclick]').length") == 0
    page.run("document.querySelector('.tile').click()")
    until(page, "location.search.startsWith('?id=')")
    assert HOSTILE_CLASS in text(page, "query-words")
    assert page.complaints == []
