"""docs/serve-elsewhere.md: its programs, run as they stand, give the embeddings that the project gives."""

import functools
import http.server
import io
import json
import os
import re
import shutil
import sys
import threading
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from models.backbones import build_backbone
from pipeline import Encoder
from pipeline.collection.sources.scenes import ARCHIVE
from pipeline.encoder.export import PixelEncoder, trace, write_onnx
from pipeline.images import fit, read_image
from tests.browser import CHROMIUM, open_browser
from tests.conftest import ROOT
from tests.processes import run

PAGE = (ROOT / "docs/serve-elsewhere.md").read_text()
PROGRAMS = dict(re.findall(r"^`([\w.]+)`, new:\n\n```\w+\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))
SIZE = 48

# `make` puts them there where there is npm
MODULES = Path(sys.prefix) / "npm/node_modules"
SKIPS = not os.environ.get("CI")  # what CI lacks, CI has to install


def needs(what: str, is_there: bool) -> pytest.MarkDecorator:
    return pytest.mark.skipif(SKIPS and not is_there, reason=f"no {what} is installed")


NODE = needs("node", shutil.which("node") is not None)
NODE_RUNTIME = needs(
    "onnxruntime-node and sharp", all((MODULES / name).exists() for name in ("onnxruntime-node", "sharp"))
)
WEB_RUNTIME = needs("onnxruntime-web", (MODULES / "onnxruntime-web").exists())

# Files that are decoded to the same pixels everywhere, some reduced to 48 px and some enlarged.
ALIKE = ("scene.jpg", "wide.jpg", "tall.png", "colour.png", "grey.png", "small.png", "square.png")
TURNED, LARGE, CLEAR = "turned.jpg", "large.jpg", "clear.png"


def write_photos(folder: Path) -> None:
    """Of the scenes and digits that the project carries, each made to be read in another way."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        scenes = [name for name in sorted(archive.namelist()) if name.endswith(".jpg")]
        (folder / "scene.jpg").write_bytes(archive.read(scenes[0]))
        one, other, third = (
            Image.open(io.BytesIO(archive.read(scenes[k]))).convert("RGB") for k in (210, 620, 930)
        )
    one.crop((0, 5, 64, 56)).save(folder / "wide.jpg", quality=90)
    other.crop((3, 0, 56, 64)).save(folder / "tall.png")
    third.resize((SIZE, SIZE)).save(folder / "square.png")
    one.crop((0, 0, 31, 40)).save(folder / "small.png")
    third.resize((320, 250)).save(folder / LARGE, quality=90)
    exif = Image.Exif()
    exif[0x0112] = 6
    other.crop((0, 0, 64, 50)).save(folder / TURNED, quality=90, exif=exif)
    layer = third.convert("RGBA")
    layer.putalpha(Image.linear_gradient("L").resize(layer.size))
    layer.save(folder / CLEAR)
    digit = Image.open(ROOT / "docs/images/digit.png")
    digit.save(folder / "colour.png")
    digit.convert("L").crop((2, 2, 30, 30)).save(folder / "grey.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's programs, an encoder and photographs, and nothing of this project."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text)
    write_photos(folder)
    (folder / "data/encoder").mkdir(parents=True)
    torch.manual_seed(0)
    backbone = build_backbone("resnet20", width=8, image_size=SIZE).module
    scenes = np.stack([read_image(path, SIZE) for path in sorted(folder.glob("*.[jp]*g"))])
    mean, std = [0.4, 0.45, 0.5], [0.2, 0.25, 0.3]
    module = PixelEncoder(backbone, mean, std)
    for _ in range(8):
        module.train()(torch.from_numpy(scenes))  # moves the running statistics of the batch norms
    dim = int(module.eval()(torch.from_numpy(scenes)).shape[1])
    metadata = {"name": "test", "image_size": SIZE, "feature_dim": dim}
    write_onnx(trace(module, SIZE), module, metadata, folder / "data/encoder/encoder.onnx")
    (folder / "node_modules").symlink_to(MODULES)
    return folder


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return Encoder.open(folder / "data/encoder/encoder.onnx", "cpu")


def expected(encoder: Encoder, folder: Path, names: Iterable[str]) -> NDArray[np.float32]:
    """What the project makes of these files, one by one."""
    return np.concatenate([encoder(read_image(folder / name, SIZE)[None]) for name in names])


def vectors(printed: str) -> NDArray[np.float64]:
    return np.array([json.loads(line) for line in printed.splitlines()])


def lowest_cosine(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    return float((one * other).sum(axis=1).min())


def test_other_pixels_would_be_seen(encoder: Encoder, folder: Path) -> None:
    """Or it would say little that two runtimes agree: colours swapped, and another filter."""
    pixels = read_image(folder / "wide.jpg", SIZE)
    wide = Image.open(folder / "wide.jpg")
    bilinear = np.asarray(ImageOps.fit(wide, (SIZE, SIZE), Image.Resampling.BILINEAR))
    right, swapped, smoothed = encoder(np.stack([pixels, pixels[..., ::-1], bilinear]))
    assert np.abs(swapped - right).max() > 0.01
    assert np.abs(smoothed - right).max() > 0.001


PYTHON_ALONE = """
import runpy
import sys

for name in ("pipeline", "models", "stages", "torch", "faiss"):
    sys.modules[name] = None  # to import it is an error
try:
    import pipeline
except ImportError:
    runpy.run_path("embed.py", run_name="__main__")
"""


def test_python_needs_nothing_of_the_project(encoder: Encoder, folder: Path) -> None:
    names = (*ALIKE, TURNED, LARGE)
    done = run("python", "-W", "error", "-c", PYTHON_ALONE, *names, cwd=folder)
    np.testing.assert_allclose(vectors(done.stdout), expected(encoder, folder, names), atol=1e-5)


def test_openvino_agrees_in_float32(encoder: Encoder, folder: Path) -> None:
    names = (*ALIKE, TURNED, LARGE)
    done = run("python", "embed_openvino.py", *names, cwd=folder)
    actual, wanted = vectors(done.stdout), expected(encoder, folder, names)
    np.testing.assert_allclose(actual, wanted, atol=1e-5)
    assert lowest_cosine(actual, wanted) > 0.99999


def test_openvino_takes_any_batch(encoder: Encoder, folder: Path) -> None:
    import openvino

    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(folder / "data/encoder/encoder.onnx", "CPU", hint)
    pixels = np.random.default_rng(0).integers(0, 256, (7, SIZE, SIZE, 3), dtype=np.uint8)
    for batch in (pixels[:1], pixels, pixels[:2]):
        np.testing.assert_allclose(compiled({"images": batch})["embeddings"], encoder(batch), atol=1e-5)


FIT_ALL = """
import fs from "node:fs";
import { fit } from "./fit.mjs";
for (const [width, height, channels, size] of JSON.parse(process.argv[1])) {
  const name = `${width}x${height}x${channels}.bin`;
  fs.writeFileSync(`fitted-${name}`, fit(fs.readFileSync(name), width, height, channels, size));
}
"""
# width, height, channels, and the size that it becomes; the last five are tall: they begin with the columns
SHAPES = (
    *((64, 64, 3, 224), (28, 28, 3, 32), (333, 201, 3, 96), (200, 300, 4, 96), (96, 97, 3, 96)),
    *((700, 5, 3, 32), (48, 48, 4, 48), (1000, 751, 3, 224), (48, 64, 3, 32)),
    *((48, 65, 3, 32), (53, 64, 3, 48), (5, 97, 3, 96), (150, 600, 4, 224), (200, 300, 3, 224)),
)


@NODE
def test_fit_mjs_resizes_as_the_project_does_to_the_byte(folder: Path) -> None:
    rng = np.random.default_rng(0)
    images = {}
    for width, height, channels, _ in SHAPES:
        pixels = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
        (folder / f"{width}x{height}x{channels}.bin").write_bytes(pixels.tobytes())
        images[width, height, channels] = pixels
    run("node", "--input-type=module", "--eval", FIT_ALL, json.dumps(SHAPES), cwd=folder)
    for (*shape, size), pixels in zip(SHAPES, images.values(), strict=True):
        fitted = (folder / "fitted-{}x{}x{}.bin".format(*shape)).read_bytes()
        assert fitted == fit(np.ascontiguousarray(pixels[..., :3]), size).tobytes(), shape


@NODE
@NODE_RUNTIME
def test_node_agrees(encoder: Encoder, folder: Path) -> None:
    names = (*ALIKE, TURNED, LARGE, CLEAR)
    actual = vectors(run("node", "embed.mjs", *names, cwd=folder).stdout)
    wanted = expected(encoder, folder, names)
    np.testing.assert_allclose(actual[: len(ALIKE)], wanted[: len(ALIKE)], atol=1e-5)
    assert lowest_cosine(actual, wanted) > 0.999


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    """Of the folder, on loopback."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@WEB_RUNTIME
@needs("chromium", CHROMIUM is not None)
@pytest.mark.xdist_group("browser")
def test_the_browser_agrees_and_asks_no_other_host(
    encoder: Encoder, folder: Path, address: str, tmp_path: Path
) -> None:
    names = (*ALIKE, TURNED, LARGE, CLEAR)
    shown = []
    with open_browser(tmp_path) as page:
        page.visit(f"{address}/embed.html")
        page.wait("!document.querySelector('input').disabled")
        for name in names:
            page.run("document.querySelector('output').value = ''")
            page.choose_file("input", folder / name)
            page.wait("document.querySelector('output').value")
            shown.append(json.loads(page.run("document.querySelector('output').value")))
        assert page.complaints == []
        hosts = {urlsplit(url).netloc for url in page.requests if not url.startswith("data:")}
        assert hosts == {urlsplit(address).netloc}
        assert any(url.endswith(".wasm") for url in page.requests)
    actual, wanted = np.array(shown), expected(encoder, folder, names)
    np.testing.assert_allclose(actual[: len(ALIKE)], wanted[: len(ALIKE)], atol=1e-4)
    assert lowest_cosine(actual, wanted) > 0.999


def test_the_page_installs_the_versions_that_the_tests_run_with() -> None:
    (line,) = re.findall(r"^NPM := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"^npm install --ignore-scripts (.*)$", PAGE, re.MULTILINE)
    tested = {package for package in line.split() if not package.startswith("axe-core@")}
    assert set(" ".join(named).split()) == tested
