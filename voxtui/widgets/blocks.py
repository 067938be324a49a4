"""Bars out of block characters: one column per value.  Pure: numbers in, rows of text out."""

from __future__ import annotations

from collections.abc import Sequence

MUTED = "$foreground 55%"  # style of what stands back: labels, units, latencies
EIGHTHS = " ▁▂▃▄▅▆▇█"


def bars(values: Sequence[float], width: int, height: int, top: float) -> list[str]:
    """The last `width` values as columns of `height` rows, newest right; `top` fills one.  No value is nothing."""
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
