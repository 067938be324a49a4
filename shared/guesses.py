"""How much of what was shown provisionally stood: provisional words against the text that came of them.  Step 12.

Pure: texts in, a share out.  It does not know who shows them, nor the wire.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from difflib import SequenceMatcher

PENDING = 64  # provisional texts whose words are not confirmed yet; the oldest are judged by what there is
SLACK = 2  # confirmed words beyond as many as were guessed, among which a guessed word may be found
# In scripts written without spaces each character is a word.
_WORD = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|\w+")


def _words(text: str) -> list[str]:
    return _WORD.findall(re.sub(r"(?<=\w)['’-](?=\w)", "", text).casefold())


@dataclass(slots=True)
class Guesses:
    """Of one turn.  Each provisional text counts once, when it is shown; letter case and punctuation do not count."""

    _text: list[str] = field(default_factory=list)  # confirmed words
    _last: str = ""  # the newest confirmed text, which may end inside a word
    _pending: deque[tuple[int, list[str]]] = field(default_factory=deque)  # confirmed words then, words guessed
    _shown: int = 0
    _stood: int = 0

    def guess(self, text: str) -> None:
        """This stands behind the confirmed text now, instead of the guess before it."""
        if words := _words(text):
            self._pending.append((len(self._text), words))
            while len(self._pending) > PENDING:
                self._judge(*self._pending.popleft())

    def confirm(self, text: str) -> None:
        """A further piece of the text."""
        joined = self._last + text
        begun = _words(self._last)
        self._text[len(self._text) - len(begun) :] = _words(joined)
        self._last = joined[joined.rfind(" ") + 1 :] if " " in joined else joined
        while self._pending and len(self._text) > self._pending[0][0] + len(self._pending[0][1]) + SLACK:
            self._judge(*self._pending.popleft())

    def share(self) -> float | None:
        """Of the words shown so far, how many are in the text so far, at their place or beside it; None: none shown."""
        judged = [self._found(begin, words) for begin, words in self._pending]
        shown = self._shown + sum(len(words) for _, words in self._pending)
        return (self._stood + sum(judged)) / shown if shown else None

    def _judge(self, begin: int, words: list[str]) -> None:
        self._shown += len(words)
        self._stood += self._found(begin, words)

    def _found(self, begin: int, words: list[str]) -> int:
        said = self._text[begin : begin + len(words) + SLACK]
        return sum(match.size for match in SequenceMatcher(None, said, words, autojunk=False).get_matching_blocks())
