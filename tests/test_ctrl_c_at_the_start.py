"""Ctrl-C while a stage or the command still imports its libraries: one line and 130, as at any later time."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

LINE = "error: interrupted; what stood before is untouched, the same command starts again\n"


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("stages.pretrain", "numpy"),
        ("stages.pretrain", "torch.nn.modules"),
        ("pipeline.cli.main", "typer.models"),
    ],
)
def test_ctrl_c_while_it_imports_is_one_line(tmp_path: Path, module: str, imported: str) -> None:
    """Sent when Python says on stderr that this module is imported; the imports that it says are left out."""
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", module],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job ignores it, and so would what it starts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            if not line.startswith("import time:"):
                said.append(line)
            elif line.split("|")[-1].strip() == imported:
                process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
    assert said == [LINE]
    assert process.returncode == 130


def test_who_imports_a_stage_keeps_its_own_ctrl_c() -> None:
    program = (
        "import signal\nimport pipeline.cli\nimport stages\n"
        "assert signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_IGN)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
