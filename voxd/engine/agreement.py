"""Append-only text out of hypotheses that change their mind: the text half of a re-decoding engine, in step 8.

Each decode of a growing segment gives a whole new hypothesis.  What two successive ones agree on is *published*, for
good; the last word of the newer one is held back, for it was probably cut short.  Later hypotheses may disagree with
what was published; then they are aligned with it and only what follows is used.

Pure: strings in, strings out.  It knows no audio, no engine and no language, except that some scripts have no spaces.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# A word carries the white space before it, so that words join to the text they came from.  In scripts written without
# spaces each character is a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"\s*(?:[{_UNSPACED}]|[^\s{_UNSPACED}]+)")
_TAIL = re.compile(r"[^\w]*$")


def split(text: str) -> list[str]:
    """Text -> words, each with the space that belongs before it, the first one too: a segment follows another one."""
    text = text.strip()
    return _WORD.findall(text if not text or re.match(f"[{_UNSPACED}]", text) else " " + text)


def _norm(word: str) -> str:
    """What is compared: letters and digits alone."""
    return re.sub(r"[^\w]|_", "", word).casefold()


def _tail(word: str) -> str:
    """The punctuation at the end of a word."""
    found = _TAIL.search(word)
    return found.group() if found else ""


def align(said: Sequence[str], hypothesis: Sequence[str]) -> tuple[int, int]:
    """How much of `said` the hypothesis covers, and where in the hypothesis that ends: (j, k).

    The edit distance of said[:j] and hypothesis[:k] is least, one of the two being used up: either all that was said is
    covered (j == len(said)) and hypothesis[k:] is new, or the hypothesis ends inside it (k == len(hypothesis)).
    Among equals the longest j wins, then the k nearest to j: a word is rather changed than lost."""
    a, b = [_norm(word) for word in said], [_norm(word) for word in hypothesis]
    row = list(range(len(b) + 1))
    ends = [(row[-1], 0, len(b))]
    for j, word in enumerate(a, 1):
        diagonal, row[0] = row[0], j
        for k, other in enumerate(b, 1):
            diagonal, row[k] = row[k], min(diagonal + (word != other), row[k] + 1, row[k - 1] + 1)
        ends.append((row[-1], j, len(b)))
    ends += [(cost, len(a), k) for k, cost in enumerate(row)]
    _, j, k = min(ends, key=lambda end: (end[0], -end[1], abs(end[2] - end[1])))
    return j, k


class Transcript:
    """The text of one utterance as it becomes known.

    `said`: what a client holds already (after an engine loss); it counts as published and is not given out again."""

    def __init__(self, said: str = "") -> None:
        self.text = said
        self._said = split(said)  # published words that hypotheses of the current segment still begin with
        self._replayed = bool(said)  # `said` may reach beyond the current segment
        self._heard: list[tuple[Sequence[str],Sequence[float]]] = []

    def hear(self, words: Sequence[str], sure: Sequence[float]) -> tuple[str, str]:
        """A hypothesis of the segment so far -> (new text, provisional text that may follow it)."""
        k, tail = self._after_published(words)
        rest = words[k:]
        agreed = 0
        self._heard.append((words,sure))
        agreed = RULE(self, words, sure, k)
        new = self._publish(tail, rest[:agreed])
        if agreed:  # punctuation after the last published word waits until a word follows: it often changes
            tail = _tail(rest[agreed - 1])
        return new, self._joined(tail + "".join(rest[agreed:])) if rest[agreed:] else ""

    def finish(self, words: Sequence[str]) -> str:
        """The last hypothesis of a segment -> the rest of its text; the next hypothesis is of the next segment."""
        k, tail = self._after_published(words)
        left = self._said[align(self._said, words)[0] :] if self._replayed else []
        new = self._publish(tail, words[k:], whole=True)
        self._heard.clear()
        self._said = left
        self._replayed = bool(left)
        return new

    def _after_published(self, words: Sequence[str]) -> tuple[int, str]:
        """(the first word that follows what is published, the punctuation that belongs before it)."""
        _, k = align(self._said, words)
        same = k > 0 and bool(self._said) and _norm(words[k - 1]) == _norm(self._said[-1])
        tail = _tail(words[k - 1]) if same and not _tail(self.text) else ""
        return k, tail

    def _publish(self, tail: str, words: Sequence[str], *, whole: bool = False) -> str:
        text = "".join(words)
        if not whole:
            text = text[: len(text) - len(_tail(text))]
        text = self._joined(tail + text) if whole or text else ""
        self._said += words
        self.text += text
        return text

    def _joined(self, text: str) -> str:
        return text if self.text else text.lstrip()
