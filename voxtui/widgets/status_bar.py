"""The top line: the link, the engines, and the path that the bytes take."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from voxtui.transcript import Link, State
from voxtui.widgets.blocks import MUTED

MARKS = {Link.CONNECTING: ("◌", "$warning"), Link.OPEN: ("●", "$success"), Link.LOST: ("✕", "$error")}


class StatusBar(Horizontal):
    """One row."""

    def compose(self) -> ComposeResult:
        yield Static("voxtui", id="brand", markup=False)
        yield Static("", id="link", markup=False)
        yield Static("", id="path", markup=False)

    def show(self, state: State) -> None:
        mark, colour = MARKS[state.link]
        engines = " → ".join(name for name in (state.transcriber, state.responder) if name)
        link = Content.assemble((f"{mark} ", colour), state.link.value)
        if engines and state.link is Link.OPEN:
            link = Content.assemble(link, ("  ·  ", MUTED), (engines, "bold"))
        self.query_one("#link", Static).update(link)
        self.query_one("#path", Static).update(Content(state.path))
