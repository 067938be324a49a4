"""The line to type into; pasted text keeps all of its lines, each break shown as one sign.  Step 12.

It does not know what becomes of the text.
"""

from __future__ import annotations

from textual import events
from textual.widgets import Input

from shared.safe_text import safe_text

BREAK = "↵"  # in the place of a line's end: an Input has one row
LIMIT = 20_000  # characters: above what a model reads of one message, and what one row can still be edited in


class Prompt(Input):
    """One row to type into; `text` is the text with its line breaks."""

    def __init__(self) -> None:
        super().__init__(placeholder="Type, and press enter", id="prompt", max_length=LIMIT)

    @property
    def text(self) -> str:
        """The text with its line breaks."""
        return self.value.replace(BREAK, "\n").strip()

    def _on_paste(self, event: events.Paste) -> None:
        event.stop()
        event.prevent_default()  # Textual keeps the first line only
        self.take(event.text)

    def take(self, pasted: str) -> None:
        """Inserts text where the cursor is."""
        text = safe_text(pasted).strip("\n").replace("\t", " ").replace("\n", BREAK)
        start, end = sorted(self.selection)
        room = max(0, LIMIT - len(self.value) + end - start)
        self.replace(text[:room], start, end)
        if left := len(text) - len(text[:room]):
            self.notify(f"The last {left} characters had no room.", markup=False)
