"""What a page shows as a chart or a table: one table of data, which can be copied as CSV."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Cell = str | float | int | None
_DIGITS = 6  # significant ones


@dataclass(frozen=True)
class Figure:
    """A chart or a gallery, with what stands in it.

    Attributes:
        name: of its place in the page, a word.
        columns: names of the table's columns.
        rows: as many cells each.
        chart: a Vega-Lite spec without its data, which are the table; None where it is no chart.
        description: the chart in words, for who cannot see it.
    """

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    chart: Mapping[str, Any] | None = None
    description: str = ""

    def as_json(self) -> dict[str, Any]:
        """What the page's script is given: plain values, no number that is none."""
        value: dict[str, Any] = {
            "columns": list(self.columns),
            "rows": [[plain(cell) for cell in row] for row in self.rows],
        }
        return value | ({"chart": self.chart} if self.chart is not None else {})


def plain(cell: Any) -> Cell:
    """A cell as JSON has it: six significant digits, and null where a number is none."""
    if cell is None or isinstance(cell, str | bool):
        return cell
    if isinstance(cell, int | np.integer):
        return int(cell)
    number = float(cell)
    return float(f"{number:.{_DIGITS}g}") if math.isfinite(number) else None


def per_cent(fraction: float, digits: int = 1) -> str:
    """Like `97.8`."""
    return f"{100 * fraction:.{digits}f}"
