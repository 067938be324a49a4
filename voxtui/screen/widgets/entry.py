"""One entry as rows of text with the names of their styles: what was said, why it broke off, how fast it was.  Step 12.

Confirmed words stand solid, provisional ones stand back; nothing in a text is markup.  It knows neither colours nor the
screen.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len
from textual.strip import Strip

from shared.latency import OF_A_TURN
from voxtui.screen.widgets.blocks import BREACH
from voxtui.screen.widgets.figures import number
from voxtui.screen.widgets.folding import Folded
from voxtui.session.transcript import Entry, EntryProgress, Voice

# The metrics under an entry; the panel has the rest.
SHOWN = {metric.name: metric.entry for metric in OF_A_TURN if metric.entry}
CURSOR = "▍"
BETWEEN = "  ·  "
BARS = {Voice.USER: "▌", Voice.MODEL: "┃", Voice.NOTE: "╎"}  # told apart without colour, too

Run = tuple[str, str]  # text, and the name of its style
Targets = tuple[tuple[str, float], ...]


class EntryRows:
    """The rows of one entry at one width; the last one is empty.  `update` folds anew only what has changed."""

    def __init__(self, entry: Entry, width: int, targets: Targets) -> None:
        self.entry = entry
        self._folded = Folded(width)
        self._solid = 0  # characters that are confirmed
        self._below: list[list[Run]] = []
        self.drawn: dict[int, Strip] = {}  # rows as they were drawn, for as long as they are unchanged
        self.update(entry, targets)

    def __len__(self) -> int:
        return len(self._folded) + len(self._below) + 1

    def update(self, entry: Entry, targets: Targets) -> int:
        """Takes a newer entry; returns the number of the first row that may look different."""
        before, self.entry = self.entry, entry
        solid = _shown(entry.text)
        old = self._folded.text[: self._solid]
        same = self._solid if solid.startswith(old) else 0
        self._solid = len(solid)
        changed = self._folded.update(solid + _tail(entry, solid), same)
        self._below = list(_below(entry, self._folded.width, targets))
        if (before.voice, before.progress) != (entry.voice, entry.progress):
            changed = 0
        for row in [row for row in self.drawn if row >= changed]:
            del self.drawn[row]
        return changed

    def bar(self) -> Run:
        style = "broken" if self.entry.progress is EntryProgress.BROKEN else self.entry.voice.value
        if self.entry.voice is Voice.USER and self.entry.progress is EntryProgress.OPEN:
            style = "open"
        return BARS[self.entry.voice], style

    def row(self, at: int) -> list[Run]:
        """The styled runs of a row without its bar; the empty row has none."""
        if at < len(self._folded):
            return list(self._spoken(at))
        at -= len(self._folded)
        return self._below[at] if at < len(self._below) else []

    def last(self, at: int) -> bool:
        """Whether it is the empty row at the end."""
        return at == len(self) - 1

    def _spoken(self, at: int) -> Iterator[Run]:
        start, text = self._folded.row(at)
        solid, rest = text[: max(0, self._solid - start)], text[max(0, self._solid - start) :]
        if solid:
            yield solid, "aside" if self.entry.voice is Voice.NOTE else "text"
        if rest.endswith(CURSOR) and self.entry.progress is EntryProgress.OPEN:
            yield rest.removesuffix(CURSOR), "provisional"
            yield CURSOR, "open" if self.entry.voice is Voice.USER else self.entry.voice.value
        elif rest:
            yield rest, "provisional"


def _shown(text: str) -> str:
    return text.strip().replace("\t", "    ")


def _tail(entry: Entry, solid: str) -> str:
    """The text behind the confirmed words."""
    found = _shown(entry.provisional)
    if entry.progress is EntryProgress.OPEN:
        found = f"{found} {CURSOR}" if found else CURSOR
    elif not solid and not found and entry.heard:
        found = "(spoken)"
    return f" {found}" if solid and found else found


def _below(entry: Entry, width: int, targets: Targets) -> Iterator[list[Run]]:
    if entry.remark:
        remark = Folded(width)
        remark.update(entry.remark, 0)
        yield from ([(remark.row(at)[1], "remark")] for at in range(len(remark)))
    row: list[Run] = []
    used = 0
    for text, style in _latency(entry, dict(targets)):
        if row and used + len(BETWEEN) + cell_len(text) > width:
            yield row
            row, used = [], 0
        if row:
            row.append((BETWEEN, "latency"))
            used += len(BETWEEN)
        row.append((text, style))
        used += cell_len(text)
    if row:
        yield row


def _latency(entry: Entry, targets: dict[str, float]) -> Iterator[Run]:
    """The figures under an entry; one that misses its target is marked."""
    found = entry.metrics.as_dict() if entry.metrics is not None else {}
    for name, word in SHOWN.items():
        if name not in found or (name == "total_ms" and entry.progress is EntryProgress.OPEN):
            continue
        value = f"{word} {number(name, found[name])}" + (" ms" if name.endswith("_ms") else "")
        if name in targets and found[name] > targets[name]:
            yield f"{BREACH} {value}, over {number(name, targets[name])}", "breach"
        else:
            yield value, "latency"
