"""One line of a terminal whose end may be taken back: confirmed words, and provisional ones dim behind them.  Step 12.

It knows columns and two escape sequences, not events.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import click


def columns(text: str) -> int:
    """Columns that a terminal needs for it (UAX 11; marks that combine need none)."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.combining(letter) > 0 for letter in text)


class Line:
    """`width`: columns of the terminal; 0 where nothing can be taken back, as in a pipe: then nothing provisional is
    written."""

    def __init__(self, write: Callable[[str], None], width: int) -> None:
        self._write, self._width = write, width
        self._column = 0
        self._provisional = 0  # columns of it that stand behind the cursor's place

    def confirm(self, text: str) -> None:
        """Words that stay, in the place of the provisional ones."""
        self.take_back()
        if text:
            self._write(text)
        self._column += columns(text)

    def suppose(self, text: str) -> None:
        """Provisional words in the place of those before them; as many as fit into the row."""
        self.take_back()
        room = max(0, self._width - 1 - self._column % self._width) if self._width else 0
        while columns(text) > room:
            text = text[:-1]
        if text:
            self._provisional = columns(text)
            self._write(click.style(text, dim=True))

    def take_back(self) -> None:
        """No provisional words stand there any more."""
        if self._provisional:
            self._write(f"\x1b[{self._provisional}D\x1b[K")
            self._provisional = 0

    def end(self) -> None:
        """The line is over; what is written next begins a line."""
        self.take_back()
        if self._column:
            self._write("\n")
        self._column = 0
