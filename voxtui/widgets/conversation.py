"""What was said: utterances, answers and notes, each with its latency under it."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from shared.latency import TurnMetrics
from voxtui.transcript import Entry, Progress, State, Voice, changes
from voxtui.widgets.blocks import MUTED

SHOWN = ("ttft_user_ms", "first_text_ms", "final_ms", "total_ms", "rtf")  # under an entry; the panel has the rest
WORDS = {"ttft_user_ms": "ttft", "first_text_ms": "first text", "final_ms": "final", "total_ms": "total", "rtf": "rtf"}


class EntryView(Static):
    """One entry.  Confirmed words stand solid, provisional ones dim."""

    def __init__(self, entry: Entry) -> None:
        super().__init__("", markup=False)
        self.show(entry)

    def show(self, entry: Entry) -> None:
        for voice in Voice:
            self.set_class(entry.voice is voice, f"-{voice.value}")
        for progress in Progress:
            self.set_class(entry.progress is progress, f"-{progress.value}")
        self.update(rendered(entry))


def rendered(entry: Entry) -> Content:
    """Text as text: nothing in it is markup."""
    text = Content(entry.text.strip())
    if entry.provisional.strip():
        gap = " " if entry.text.strip() else ""
        text = Content.assemble(text, (f"{gap}{entry.provisional.strip()}", "dim italic"))
    if entry.progress is Progress.OPEN:
        text = Content.assemble(text, (" ▍" if text.plain else "▍", "$primary"))
    elif not text.plain and entry.heard:
        text = Content.styled("(spoken)", "dim italic")
    below = _latency(entry.metrics) if entry.progress is not Progress.OPEN else Content("")
    if entry.remark:
        below = Content.assemble((entry.remark, "$text-error"), "   " if below.plain else "", below)
    return Content.assemble(text, "\n", below) if below.plain else text


def _latency(metrics: TurnMetrics | None) -> Content:
    """One dim line."""
    found = metrics.as_dict() if metrics is not None else {}
    parts = [f"{WORDS[name]} {_value(name, found[name])}" for name in SHOWN if name in found]
    return Content.styled("  ·  ".join(parts), MUTED)


def _value(name: str, value: float) -> str:
    return f"{value:.0f} ms" if name.endswith("_ms") else f"{value:.2f}"


class Conversation(VerticalScroll):
    """Stays at its end while it grows, unless the person has scrolled up."""

    can_focus = True

    def __init__(self) -> None:
        super().__init__(id="conversation")
        self._views: dict[str, EntryView] = {}
        self._state = State()

    def compose(self) -> ComposeResult:
        yield Static("Speak. The words appear here as they are heard.", id="hint", markup=False)

    def on_mount(self) -> None:
        self.anchor()

    def show(self, state: State) -> None:
        """Only what has changed since the state before is touched."""
        before, self._state = self._state, state
        fresh = []
        for _, entry in changes(before, state):
            view = self._views.get(entry.key)
            if view is None:
                view = self._views[entry.key] = EntryView(entry)
                fresh.append(view)
            else:
                view.show(entry)
        if fresh:
            self.mount_all(fresh)
        if before.entries is not state.entries:
            self._forget({entry.key for entry in state.entries})
            self.query_one("#hint").display = not state.entries

    def _forget(self, kept: set[str]) -> None:
        for key in self._views.keys() - kept:
            self._views.pop(key).remove()
