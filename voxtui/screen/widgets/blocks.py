"""Bars made of block characters, one column per value.  Step 12.

Pure: numbers in, rows of text out.  It does not know what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence

MUTED = "$foreground 60%"  # style of what stands back: labels, units, latencies
EIGHTHS = " ▁▂▃▄▅▆▇█"
BREACH = "✗"  # over its target; seen without colour, too
TARGET = "┄"


def bars(values: Sequence[float], width: int, height: int, top: float) -> list[str]:
    """Draws the last `width` values as columns of `height` rows, newest right; `top` fills a column, None leaves it
    empty."""
    shown = values[-width:] if width > 0 else []
    filled = [_eighths(value, top, height) for value in shown]
    rows = []
    for row in range(height - 1, -1, -1):
        cells = "".join(EIGHTHS[min(8, max(0, eighths - 8 * row))] for eighths in filled)
        rows.append(cells.rjust(width))
    return rows


def _eighths(value: float, top: float, height: int) -> int:
    share = value / top if top > 0 else 0.0
    return min(8 * height, max(1, round(share * 8 * height)))


def graph(values: Sequence[float], width: int, height: int, target: float | None) -> list[str]:
    """Draws bars from zero to the slowest; where there is a target, a line at its height and BREACH over each bar that
    is beyond it.  One row has no room for a line: there BREACH stands in the bar's place."""
    if target is None:
        return bars(values, width, height, max(values, default=0.0))
    breaches = marks(values, width, target)
    if height == 1:
        row = bars(values, width, 1, max(values, default=0.0))[0]
        return ["".join(BREACH if hit else cell for cell, hit in zip(row, breaches, strict=True))]
    below = height - 1  # the first row is for the marks
    top = max(1.1 * target, *values) if values else 2 * target
    rows = bars(values, width, below, top)
    level = below - 1 - min(below - 1, int(target / top * below))
    rows[level] = rows[level].replace(" ", TARGET)
    return ["".join(BREACH if hit else " " for hit in breaches), *rows]


def marks(values: Sequence[float], width: int, target: float) -> list[bool]:
    """Whether the value of each column of a graph is beyond the target."""
    hits = [value > target for value in values[-width:]] if width > 0 else []
    return [False] * (width - len(hits)) + hits
