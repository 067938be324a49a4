"""The small table of latency: one row per metric that applied, percentiles and how many turns they stand on.

Beside step 12.  Pure: metrics in, text out.  It does not know how they were measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shared.latency import TurnMetrics, summarise

TITLES = ("metric", "n", "p50", "p95")


def metrics_table(turns: Iterable[TurnMetrics]) -> str:
    """The table as lines without a final line end; "" if nothing was measured."""
    rows = [
        (name, str(found.n), number(name, found.p50), number(name, found.p95))
        for name, found in summarise(turns).items()
    ]
    return table(TITLES, rows) if rows else ""


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligns rows: names to the left, figures to the right, columns as wide as they must be."""
    widths = [max(len(row[column]) for row in (titles, *rows)) for column in range(len(titles))]
    return "\n".join(_line(row, widths) for row in (titles, *rows))


def number(name: str, value: float) -> str:
    """A figure as text: milliseconds as whole numbers, ratios with two digits."""
    return f"{value:.0f}" if name.endswith("_ms") else f"{value:.2f}"


def _line(row: Iterable[str], widths: list[int]) -> str:
    first, *rest = row
    return "  ".join(
        [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
    )
