"""onnxruntime, as packaged, keeps an identifier of the machine and sends events to its maker: not here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# where onnxruntime tells nobody of itself: in CI, and in tests
SILENT = (
    "CI",
    "TF_BUILD",
    "GITHUB_ACTIONS",
    "PYTEST_CURRENT_TEST",
    "PYTEST_VERSION",
    "ORT_DISABLE_TELEMETRY",
)


@pytest.mark.parametrize(
    "code",
    [
        "from pipeline import Encoder; Encoder",
        "import stages.embed",  # which imports onnxruntime by itself
        "import pipeline.cli.main, onnxruntime",
    ],
)
def test_no_identifier_is_kept(tmp_path: Path, code: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in SILENT}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", f"{code}; import onnxruntime"], env=environment, check=True, cwd=ROOT
    )
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == []
