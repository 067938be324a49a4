"""The latency so far: graphs of what matters most and, where there is room, every metric's percentiles.  Step 12.

For answers it shows the engine's time to the first token beside the person's, for transcription the final text.  A
value over its target is marked in its column, at the newest value and in the table, by a sign as well as by colour.  It
does not know how anything is measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest

from textual.app import RenderResult
from textual.content import Content
from textual.widget import Widget

from shared.latency import LABELS, Summary
from voxtui.screen.widgets.blocks import BREACH, MUTED, TARGET, graph, marks
from voxtui.screen.widgets.figures import course, graphed, number, summaries, target_of, trip
from voxtui.session.transcript import TURNS, State

LARGE, SMALL = 6, 4  # rows of a graph, the row of marks included
GAP = 3  # columns between two graphs
STRIP = 3  # rows at most
COLOURS = {"ttft_engine_ms": "$secondary"}  # metrics in the machine's colour; all others are the person's
NONE = "–"


class Latency(Widget):
    """A region of latency, which is drawn anew only when a figure has changed."""

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self._state = State()

    def show(self, state: State) -> None:
        if figures(state) != figures(self._state):
            self._state = state
            self.changed()
            self.refresh(layout=True)

    def changed(self) -> None:
        """Draws another state."""


def figures(state: State) -> tuple[object, ...]:
    """The parts of a state that are shown here."""
    health = state.health.rtt_ms, state.health.lost_ms
    return state.turns, state.running, state.renders, state.targets, state.converses, health


class LatencyStrip(Latency):
    """A row for each graph, for narrow screens."""

    def render(self) -> RenderResult:
        return Content("\n").join(self._row(name) for name in graphed(self._state)[:STRIP])

    def _row(self, name: str) -> Content:
        values, target = course(self._state, name), target_of(self._state, name)
        title = Content.styled(f"{LABELS[name]:15}", MUTED)
        value = newest(name, values, target)
        value = Content.assemble(" " * max(0, 9 - value.cell_length), value)
        if not values:
            return Content.assemble(title, value)
        found = Summary.of(values)
        numbers = f"   p50 {number(name, found.p50):>4}   p95 {number(name, found.p95):>4}"
        width = max(0, self.size.width - title.cell_length - value.cell_length - len(numbers) - 2)
        drawn = drawing(name, values[-width:] if width else [], width, 1, target)
        return Content.assemble(title, value, "  ", *drawn, (numbers, MUTED))


class LatencyPanel(Latency):
    """A column, for wide screens."""

    def on_mount(self) -> None:
        self.border_title = "latency"
        self._summaries: dict[str, Summary] = {}

    def changed(self) -> None:
        self._summaries = summaries(self._state.turns, self._state.renders)
        self.border_subtitle = f"last {TURNS} turns" if len(self._state.turns) == TURNS else ""

    def render(self) -> RenderResult:
        names, width = graphed(self._state), self.size.width
        halves = (width - GAP) // 2, (width - GAP + 1) // 2
        if names[0] == "final_ms":
            lines = self._gauge(names[0], width, LARGE)
            widths = halves if len(names) > 2 else (width,)
            rest = [self._gauge(name, wide, SMALL) for name, wide in zip(names[1:], widths, strict=False)]
            lines += [Content(""), *beside(rest)] if rest else []
        else:
            lines = beside([self._gauge(name, wide, LARGE) for name, wide in zip(names, halves, strict=True)])
        lines += [Content(""), *self._table(width), *self._link(width)]
        return Content("\n").join(lines)

    def _gauge(self, name: str, width: int, height: int) -> list[Content]:
        """One graph with title, newest value and target; each row exactly as wide as told."""
        values, target = course(self._state, name), target_of(self._state, name)
        rows = [Content.styled(LABELS[name], MUTED), newest(name, values, target)]
        if target is None:
            rows += [Content(""), *drawing(name, values, width, height - 1, target)]
        else:
            missed = sum(value > target for value in values)
            against = f"target {number(name, target)}" + (f"  {BREACH} {missed}/{len(values)}" if missed else "")
            rows += [*drawing(name, values, width, height, target), Content.styled(against, MUTED)]
        return [row.truncate(width, ellipsis=True, pad=True) for row in rows]

    def _table(self, width: int) -> list[Content]:
        if not self._summaries:
            return [Content.styled("Every turn is measured.", MUTED)]
        first = max(0, width - 24)
        lines = [Content.styled(f"{'':{first}}{'n':>6}{'p50':>9}{'p95':>9}", MUTED)]
        for name, found in self._summaries.items():
            target = target_of(self._state, name)
            numbers = [self._cell(name, value, target) for value in (found.p50, found.p95)]
            title = Content.styled(f"{LABELS[name]:{first}.{first}}", MUTED)
            lines.append(Content.assemble(title, (f"{found.n:>6}", MUTED), *numbers))
        return lines

    def _cell(self, name: str, value: float, target: float | None) -> Content:
        text = number(name, value)
        if target is None or value <= target:
            return Content(f"{text:>9}")
        return Content.styled(f"{BREACH} {text}".rjust(9), "$text-error")

    def _link(self, width: int) -> list[Content]:
        """The rows on what is measured beside the turns."""
        health = self._state.health
        rows = []
        if health.rtt_ms is not None:
            rows.append(("round trip", trip(health.rtt_ms)))
        if health.lost_ms:
            rows.append(("sound lost", f"{health.lost_ms / 1000:.1f} s"))
        lines = [Content.assemble((title, MUTED), text.rjust(width - len(title))) for title, text in rows]
        return [Content(""), *lines] if lines else []


def newest(name: str, values: list[float], target: float | None) -> Content:
    if not values:
        return Content.styled(NONE, MUTED)
    text = f"{number(name, values[-1])} ms"
    if target is not None and values[-1] > target:
        return Content.styled(f"{BREACH} {text}", "bold $text-error")
    return Content.styled(text, f"bold {COLOURS.get(name, '$primary')}")


def drawing(name: str, values: list[float], width: int, height: int, target: float | None) -> list[Content]:
    """A graph in colours: the newest stands out, what is over its target is red."""
    colour = COLOURS.get(name, "$primary")
    hits = marks(values, width, target) if target is not None else [False] * width
    styles = ["$error" if hit else f"{colour} 55%" for hit in hits]
    if styles and values:
        styles[-1] = "$error" if hits[-1] else colour
    rows = []
    for row in graph(values, width, height, target):
        lined = TARGET in row
        cells = ((cell, MUTED if lined and cell == TARGET else style) for cell, style in zip(row, styles, strict=True))
        rows.append(Content.assemble(*merged(cells)))
    return rows


def merged(cells: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Joins neighbours of one style."""
    runs: list[tuple[str, str]] = []
    for text, style in cells:
        if runs and runs[-1][1] == style:
            runs[-1] = (runs[-1][0] + text, style)
        else:
            runs.append((text, style))
    return runs


def beside(columns: list[list[Content]]) -> list[Content]:
    """Puts columns beside each other; a shorter one ends earlier."""
    return [Content(" " * GAP).join(row) for row in zip_longest(*columns, fillvalue=Content(""))]
