"""A comparison as a person and as a program reads it."""

from collections.abc import Sequence
from typing import Any

from pipeline.comparison.paired import Comparison, Paired, turned
from pipeline.evaluation.intervals import FEWEST, Interval

_NAMES = {"knn": "kNN", "linear": "linear", "retrieval": "retrieval"}
_MOST_DECIMALS = 4


def table(comparison: Comparison) -> str:
    """What is compared, what to beware of, each protocol as a row, and the verdict as the last line."""
    runs = [("A", "B"), comparison.names, [f"{number:,} test images" for number in comparison.num_images]]
    rows = [("top-1 in %", "images", "A", "B", "B - A", "95 % interval")]
    rows += [_row(protocol, paired) for protocol, paired in comparison.protocols.items()]
    parts = [
        *_aligned(list(zip(*runs, strict=True)), to_the_right=False),
        f"{comparison.num_common:,} of them are the same images",
        *(f"warning: {warning}" for warning in comparison.warnings),
        "",
        *_aligned(rows, to_the_right=True),
        "",
        verdict(comparison),
    ]
    return "\n".join(parts)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The same for programs; shares are fractions from 0 to 1, a gain is B's over A."""
    sides = zip(comparison.names, comparison.num_images, strict=True)
    a, b = ({"name": name, "num_test_images": number} for name, number in sides)
    return {
        "a": a,
        "b": b,
        "num_common": comparison.num_common,
        "warnings": comparison.warnings,
        "protocols": {
            protocol: {
                "num_images": paired.num_images,
                "num_decided": paired.num_decided,
                "a": paired.a,
                "b": paired.b,
                **paired.gain.figures("gain"),
                "better": paired.better,
            }
            for protocol, paired in comparison.protocols.items()
        },
        "by": comparison.by,
        "better": comparison.protocols[comparison.by].better,
        "verdict": verdict(comparison),
    }


def verdict(comparison: Comparison) -> str:
    """One line that begins with `better: A`, `better: B` or `no difference`.

    A difference is of the better one; where there is none, B's over A.
    """
    paired, name = comparison.protocols[comparison.by], _NAMES[comparison.by]
    better = paired.better
    if better is None:
        line = f"no difference: {name} {_points(paired.gain)} for B ({_bounds(paired.gain)})"
        if 0 < paired.num_decided < FEWEST:
            line += f"; {paired.num_decided} images decide it, and fewer than {FEWEST} may be chance"
        return line
    gain = paired.gain if better == "B" else turned(paired.gain)
    winner = comparison.names["AB".index(better)]
    return f"better: {better} ({winner}): {name} {_points(gain)} ({_bounds(gain)})"


def _row(protocol: str, paired: Paired) -> tuple[str, str, str, str, str, str]:
    low, high = (_number(bound, _decimals(paired.gain)) for bound in (paired.gain.low, paired.gain.high))
    return (
        _NAMES[protocol],
        f"{paired.num_images:,}",
        f"{100 * paired.a:.1f}",
        f"{100 * paired.b:.1f}",
        _points(paired.gain),
        f"{low} to {high}",
    )


def _points(gain: Interval) -> str:
    return f"{round(100 * gain.value, _decimals(gain)) + 0.0:+.{_decimals(gain)}f}"


def _bounds(gain: Interval) -> str:
    low, high = (_number(bound, _decimals(gain)) for bound in (gain.low, gain.high))
    return f"95 % interval {low} to {high}"


def _number(fraction: float, decimals: int) -> str:
    # 0.0 is added since -0.04 rounds to -0.0
    return f"{round(100 * fraction, decimals) + 0.0:.{decimals}f}"


def _decimals(gain: Interval) -> int:
    """One, or as many as show that a bound is not 0."""
    smallest = min((abs(100 * bound) for bound in (gain.low, gain.high) if bound), default=1.0)
    return next((n for n in range(1, _MOST_DECIMALS) if round(smallest, n)), _MOST_DECIMALS)


def _aligned(rows: Sequence[tuple[str, ...]], *, to_the_right: bool) -> list[str]:
    """Columns of equal width, the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [
            cell.rjust(width) if to_the_right else cell.ljust(width)
            for cell, width in zip(others, widths[1:], strict=True)
        ]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return lines
