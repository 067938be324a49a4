"""What is shown until there is a conversation: what to do now, with a few notes of the program below.  Step 12.

It does not know how either comes about.
"""

from __future__ import annotations

from textual.app import RenderResult
from textual.content import Content
from textual.widget import Widget

from voxtui.screen.widgets.blocks import MUTED
from voxtui.session.transcript import LinkState, State, Voice

NOTES = 2  # notes that have room below it, on the smallest terminal too


class Welcome(Widget):
    """A few lines in the middle that say what to do now."""

    def __init__(self) -> None:
        super().__init__(id="welcome")
        self._lines = ("", "")

    def show(self, state: State) -> None:
        notes = len(state.entries)
        self.display = notes <= NOTES and all(entry.voice is Voice.NOTE for entry in state.entries)
        self.set_class(notes > 0, "-notes")
        lines = _lines(state)
        if lines != self._lines:
            self._lines = lines
            self.refresh(layout=True)

    def render(self) -> RenderResult:
        first, second = self._lines
        return Content.assemble((first, "bold"), "\n\n", (second, MUTED))


def _lines(state: State) -> tuple[str, str]:
    if state.link is LinkState.CONNECTING:
        what = "Connecting" if not state.progress else "voxd is getting ready"
        return what, state.progress or state.path
    if state.link is LinkState.LOST:
        return "Not connected", "Press r to connect anew.\n`voxtui doctor` looks for the cause."
    if not state.floor.microphone:
        return "No sound yet", "No microphone is open.\n`voxtui doctor` says what to do."
    if not state.floor.hands_free:
        return "Press space and speak", "Press space again when you have finished."
    if state.converses:
        return "Speak", "Your words appear here while you say them;\nthe answer follows when you pause."
    return "Speak", "Your words appear here while you say them."
