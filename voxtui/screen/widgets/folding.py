"""Folds text into rows that fit; a text that grows is folded at its end only.  Step 12.

Pure.  Breaks lie behind spaces, inside a word only where it is longer than a row; a newline ends a row.  Each row is a
slice of the text, so that whoever draws it knows which characters it holds.
"""

from __future__ import annotations

import re

from rich.cells import cell_len

_WORD = re.compile(r"\n|[^\S\n]*[^\s]*[^\S\n]*")


class Folded:
    """The rows of one text at one width."""

    def __init__(self, width: int) -> None:
        self.width = max(1, width)
        self.text = ""
        self.starts = [0]  # of each row, in characters

    def __len__(self) -> int:
        return len(self.starts)

    def row(self, number: int) -> tuple[int, str]:
        """The position where a row begins, and its text without the space or newline at its end."""
        start = self.starts[number]
        end = self.starts[number + 1] if number + 1 < len(self.starts) else len(self.text)
        return start, self.text[start:end].rstrip()

    def update(self, text: str, same: int) -> int:
        """Takes another text, of which the first `same` characters are as they were; returns the number of the first
        row that may have changed.

        A row is settled once a word that has not changed begins the next one: it did not fit, and will not."""
        first = len(self.starts) - 1
        while first > 0 and not text[self.starts[first] : same].strip():
            first -= 1
        self.text = text
        del self.starts[first + 1 :]
        self._fold(self.starts[first])
        return first

    def _fold(self, at: int) -> None:
        column = 0
        while at < len(self.text):
            found = _WORD.match(self.text, at)
            assert found is not None
            word = found.group()
            if word == "\n":
                at, column = at + 1, 0
                self.starts.append(at)
                continue
            if column and column + cell_len(word.rstrip()) > self.width:
                self.starts.append(at)
                column = 0
            if cell_len(word.rstrip()) > self.width:
                word = _head(word, self.width)
            at += len(word)
            column += cell_len(word)


def _head(word: str, width: int) -> str:
    """How many characters fit into a row, at least one."""
    cells = 0
    for count, character in enumerate(word):
        cells += cell_len(character)
        if cells > width and count:
            return word[:count]
    return word
