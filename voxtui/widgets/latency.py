"""How fast it has been: the graph of the headline metric and, where there is room, every metric's percentiles."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import RenderResult
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from shared.latency import Summary, TurnMetrics, summarise
from voxtui.transcript import State
from voxtui.widgets.blocks import MUTED, bars

GRAPH = 5  # rows of the graph in the panel
HEADLINES = ("ttft_user_ms", "final_ms")  # the first that has values


def headline(turns: Sequence[TurnMetrics]) -> tuple[str, list[float]]:
    """Name and values, oldest first, of what the graph shows."""
    for name in HEADLINES:
        values = [found[name] for found in (turn.as_dict() for turn in turns) if name in found]
        if values:
            return name, values
    return HEADLINES[-1], []


def graph(values: Sequence[float], width: int, height: int) -> list[Content]:
    """Rows of bars from zero to the slowest turn; the newest stands out."""
    rows = bars(values, width, height, max(values))
    return [Content.assemble((row[:-1], "$accent 55%"), (row[-1:], "$accent")) for row in rows]


class LatencyStrip(Widget):
    """One row, for narrow screens."""

    turns: reactive[tuple[TurnMetrics, ...]] = reactive(())

    def show(self, state: State) -> None:
        self.turns = state.turns

    def render(self) -> RenderResult:
        name, values = headline(self.turns)
        title = Content.styled(name.ljust(12), f"bold {MUTED}")
        if not values:
            return Content.assemble(title, ("no turn yet", MUTED))
        found = Summary.of(values)
        numbers = f"  {values[-1]:.0f} ms   p50 {found.p50:.0f}   p95 {found.p95:.0f}   n {found.n}"
        width = max(0, self.size.width - title.cell_length - len(numbers))
        return Content.assemble(title, *graph(values, width, 1), numbers)


class LatencyPanel(Widget):
    """A column, for wide screens."""

    turns: reactive[tuple[TurnMetrics, ...]] = reactive(())

    def on_mount(self) -> None:
        self.border_title = "latency"

    def show(self, state: State) -> None:
        self.turns = state.turns

    def render(self) -> RenderResult:
        name, values = headline(self.turns)
        if not values:
            return Content.styled("No turn has ended yet.", MUTED)
        width = self.size.width
        last = f"{values[-1]:.0f} ms"
        lines = [Content.assemble((name, "bold"), (last.rjust(width - len(name)), "bold $accent")), Content("")]
        lines += graph(values, width, GRAPH)
        lines += [Content(""), *self._table(width)]
        return Content("\n").join(lines)

    def _table(self, width: int) -> list[Content]:
        first = max(0, width - 21)
        lines = [Content.styled(f"{'':{first}}{'n':>5}{'p50':>8}{'p95':>8}", MUTED)]
        for name, found in summarise(self.turns).items():
            digits = 0 if name.endswith("_ms") else 2
            numbers = f"{found.n:>5}{found.p50:>8.{digits}f}{found.p95:>8.{digits}f}"
            lines.append(Content(f"{name:{first}.{first}}{numbers}"))
        return lines
