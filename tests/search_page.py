"""What the tests of the search page share: a server, a browser on its page, and hands to use it with."""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.browser import CHROMIUM, Page, open_browser
from tests.index_folders import Photographs, index_photographs
from tests.serving import Served, serving

SKIPS = not os.environ.get("CI")  # what CI lacks, CI has to install
A_PAGE = 60  # images that the page asks for at a time
IN_A_BROWSER = [
    pytest.mark.skipif(SKIPS and CHROMIUM is None, reason="no chromium is installed"),
    pytest.mark.xdist_group("search_page"),
]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Photographs:
    return index_photographs(tmp_path_factory.mktemp("photographs") / "index")


@pytest.fixture(scope="module")
def served(photographs: Photographs) -> Iterator[Served]:
    with serving(photographs.folder) as server:
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser: Page, served: Served) -> Page:
    """The empty page, in a window 1,200 px wide."""
    browser.size(1200, 900)
    browser.scheme("light")
    arrive(browser, served, "/")
    return browser


@pytest.fixture(scope="module")
def upload(photographs: Photographs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph that is not in the collection: one of it, cut."""
    path = tmp_path_factory.mktemp("upload") / "my photograph.png"
    Image.open(io.BytesIO(photographs.contents[120])).crop((0, 0, 60, 48)).save(path)
    return path


# for a test file to name, so that pytest finds them there
FIXTURES = browser, page, photographs, served, upload


def arrive(page: Page, served: Served, address: str) -> None:
    page.visit(served.url + address)
    rest(page)


def rest(page: Page) -> None:
    """Until nothing is under way."""
    page.wait("document.getElementById('images')?.getAttribute('aria-busy') === 'false'")


def until(page: Page, expression: str) -> None:
    page.wait(expression)
    rest(page)


def text(page: Page, id_: str) -> str:
    return str(page.run(f"document.getElementById({json.dumps(id_)}).textContent"))


def shown(page: Page) -> list[int]:
    """The ids of the images that are seen."""
    ids: list[int] = page.run(
        "[...document.querySelectorAll('#images li')].filter((item) => !item.hidden)"
        ".map((item) => Number(item.dataset.id))"
    )
    return ids


def neighbors(served: Served, *, file: Path | None = None, k: int = A_PAGE, **query: object) -> list[int]:
    """What the API answers to the same question."""
    response = served.search(file, k=k, **query) if file else served.post(f"/v1/search?k={k}", params=query)
    return [neighbor["id"] for neighbor in response.json()["answers"][0]["neighbors"]]


def press(page: Page, id_: str) -> None:
    page.run(f"document.getElementById({json.dumps(id_)}).click()")


def set_value(page: Page, id_: str, value: object, event: str = "change") -> None:
    page.run(
        f"(() => {{ const field = document.getElementById({json.dumps(id_)}); field.value = "
        f"{json.dumps(value)}; field.dispatchEvent(new Event('{event}', {{bubbles: true}})); }})()"
    )


def search_with(page: Page, file: Path) -> None:
    page.choose_file("#file", file)
    until(page, f"document.title.includes({json.dumps(file.name)})")
