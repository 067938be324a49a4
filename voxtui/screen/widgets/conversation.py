"""The conversation: utterances, answers and notes, each with its latency under it.  Step 12.

It draws the rows that are seen and no others, and of a growing answer only the row that grows: a token costs the same
in a long conversation as in a short one.  It does not know where entries come from.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip

from voxtui.screen.widgets.entry import EntryRows
from voxtui.session.transcript import State, changes

MEASURE = 96  # columns of text at most: longer rows are hard to follow
DRAWN = 150  # rows of one entry that are kept as they were drawn: more than any terminal shows
GUTTER = 4  # columns of the bar at the left, and of air at the right


class Conversation(ScrollView, can_focus=True):
    """The region of the conversation, which stays at its end while it grows unless the person has scrolled up."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"conversation--{name}"
        for name in (
            *("text", "aside", "provisional", "latency", "breach", "remark"),
            *("user", "open", "model", "note", "broken"),
        )
    }

    def __init__(self) -> None:
        super().__init__(id="conversation")
        self._state = State()
        self._rows: dict[str, EntryRows] = {}  # by the entry's key, in order
        self._order: list[EntryRows] = []
        self._tops: list[int] = []  # row where each of them begins
        self._total = 0
        self._width = 0
        self._follows = True
        self._base: Style | None = None  # its own style: finding it out costs more than drawing a row

    def show(self, state: State) -> None:
        """Shows a state, and touches only what has changed since the one before."""
        before, self._state = self._state, state
        if state.targets != before.targets:
            self._lay_out()
            return
        moved = False
        for _, entry in changes(before, state):
            rows = self._rows.get(entry.key)
            if rows is None:
                self._rows[entry.key] = EntryRows(entry, self._width, state.targets)
                moved = True
                continue
            height = len(rows)
            first = rows.update(entry, state.targets)
            moved = moved or len(rows) != height
            if not moved:
                self.refresh_lines(self._above + self._tops[self._order.index(rows)] + first, height - first)
        if moved or len(state.entries) != len(self._rows):
            self._place()

    def _place(self) -> None:
        """Computes where each entry lies."""
        kept = {entry.key for entry in self._state.entries}
        for key in self._rows.keys() - kept:
            del self._rows[key]
        self._order = list(self._rows.values())
        *self._tops, self._total = [0, *accumulate(len(rows) for rows in self._order)]
        self.virtual_size = Size(self.scrollable_content_region.width, self._total)
        if self._follows and not self.is_vertical_scrollbar_grabbed:
            self.scroll_end(animate=False, immediate=True, x_axis=False)
        for rows, top in zip(self._order, self._tops, strict=True):
            if not self.scroll_offset.y - len(rows) <= top <= self.scroll_offset.y + self.size.height:
                rows.drawn.clear()  # what is not seen is not kept
        self.refresh()

    def _lay_out(self) -> None:
        """Folds all entries anew for another width or other targets."""
        self._width = max(1, min(MEASURE, self.scrollable_content_region.width - GUTTER))
        self._rows = {entry.key: EntryRows(entry, self._width, self._state.targets) for entry in self._state.entries}
        self._place()

    def on_resize(self) -> None:
        self._lay_out()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._follows = self.is_vertical_scroll_end

    @property
    def _above(self) -> int:
        """The empty rows above a short conversation, which stands at the bottom, beside the voice."""
        return max(0, self.size.height - self._total)

    # ── drawing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def render_line(self, y: int) -> Strip:
        at = self.scroll_offset.y + y
        if self._base is None:
            self._base = self.rich_style
        strip = self._drawn(at - self._above, self._base)
        if self.text_selection is not None and (span := self.text_selection.get_span(at)) is not None:
            strip = self._selected(strip, *span)
        return strip.apply_offsets(0, at)

    def _drawn(self, at: int, base: Style) -> Strip:
        if not 0 <= at < self._total:
            return Strip.blank(self.size.width, base)
        number = bisect_right(self._tops, at) - 1
        rows = self._order[number]
        at -= self._tops[number]
        if at not in rows.drawn:
            if len(rows.drawn) > DRAWN:
                rows.drawn.clear()
            bar, style = rows.bar()
            runs = [] if rows.last(at) else [(f"{bar} ", style), *rows.row(at)]
            strip = Strip([Segment(text, self._style(name)) for text, name in runs])
            rows.drawn[at] = strip.adjust_cell_length(self.size.width, base).apply_style(base)
        return rows.drawn[at]

    def notify_style_update(self) -> None:
        self._base = None
        for rows in self._order:
            rows.drawn.clear()
        super().notify_style_update()

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"conversation--{name}")

    # ── marking with the mouse ──────────────────────────────────────────────────────────────────────────────────────

    def _selected(self, strip: Strip, start: int, end: int) -> Strip:
        end = strip.cell_length if end == -1 else min(end, strip.cell_length)
        if start >= end:
            return strip
        style = Style(bgcolor=self.screen.get_component_rich_style("screen--selection").bgcolor)
        marked = Strip(Segment.apply_style(strip.crop(start, end), post_style=style))
        return Strip.join([strip.crop(0, start), marked, strip.crop(end)])

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        lines = [""] * self._above
        for rows in self._order:
            lines += ["  " + "".join(text for text, _ in rows.row(at)) for at in range(len(rows))]
        found = selection.extract("\n".join(lines)).splitlines()
        return "\n".join(line.removeprefix("  ") for line in found), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        self.refresh()
