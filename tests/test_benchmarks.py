"""What `make bench` runs is there to be run: nothing that it needs of the library has another name by now."""

import importlib
import re

import pytest

from tests.conftest import ROOT

MODULES = re.findall(r"python -m (benchmarks\.[\w.]+)", (ROOT / "Makefile").read_text())


def test_make_bench_runs_every_side_of_the_chain() -> None:
    assert len(MODULES) >= 6


@pytest.mark.parametrize("module", MODULES)
def test_a_benchmark_finds_what_it_measures(module: str) -> None:
    """A package runs by its __main__."""
    found = importlib.import_module(module)
    assert found.main if hasattr(found, "main") else importlib.import_module(f"{module}.__main__").main
