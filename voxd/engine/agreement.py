"""Append-only text out of hypotheses that change their mind: the text half of a re-decoding engine, in step 8.

Each decode of a growing segment gives a whole new hypothesis.  What successive ones agree on is *published*, for good:
two are enough for a word of which the model is sure, or after which it has heard more; an unsure one takes up to four.
Later hypotheses may disagree with what was published; then they are aligned with it and only what follows is used.

Pure: strings in, strings out.  It knows no audio, no engine and no language, except that some scripts have no spaces.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from itertools import accumulate, takewhile

# A word carries the white space before it, so that words join to the text they came from.  In scripts written without
# spaces each character is a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"\s*(?:[{_UNSPACED}]|[^\s{_UNSPACED}]+)")
_CUT_SHORT = " .,!?;:-…"  # what a model writes where the sound ends in the middle of a sentence
MOST = 4  # hypotheses that a word ever needs
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


def align(said: Sequence[str], hypothesis: Sequence[str]) -> tuple[int, int, int]:
    """How much of `said` the hypothesis covers, where in the hypothesis that ends, at what cost: (j, k, distance).

    The edit distance of said[:j] and hypothesis[:k], in letters, is least, one of the two being used up: either all
    that was said is covered (j == len(said)) and hypothesis[k:] is new, or the hypothesis ends inside it
    (k == len(hypothesis)).  Among equals the longest j wins, then the k nearest to j."""
    a, b = [_norm(word) for word in said], [_norm(word) for word in hypothesis]
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    a, b = a[same:], b[same:]  # letters are slow, and most of what was said is said again
    ends_b = [0, *accumulate(len(word) + 1 for word in b)]
    letters = "".join(word + " " for word in b)
    row = list(range(len(letters) + 1))
    ends = [(row[-1], 0, len(b))]
    for j, word in enumerate(a, 1):
        for letter in word + " ":
            row = _next_row(row, letter, letters)
        ends.append((row[-1], j, len(b)))
    ends += [(row[end], len(a), k) for k, end in enumerate(ends_b)]
    cost, j, k = min(ends, key=lambda end: (end[0], -end[1], abs(end[2] - end[1])))
    return same + j, same + k, cost


def _next_row(row: list[int], letter: str, letters: str) -> list[int]:
    """One row of Levenshtein's table."""
    out = [row[0] + 1]
    for i, other in enumerate(letters):
        out.append(min(row[i] + (letter != other), row[i + 1] + 1, out[i] + 1))
    return out


def wanted(sure: float, past_s: float) -> int:
    """How many successive hypotheses must have a word before it is published.

    `sure`: the model's probability for it; `past_s`: how much sound the model has heard after the word, which settles
    what it was.  Measured with whisper tiny.en on 25 clips (docs/SPEED.md)."""
    if sure >= 0.6 or (sure >= 0.35 and past_s >= 0.4):
        return 2
    return 3 if sure >= 0.3 else MOST


class Transcript:
    """The text of one utterance as it becomes known.

    `said`: what a client holds already (after an engine loss); it counts as published and is not given out again."""

    def __init__(self, said: str = "") -> None:
        self.text = said
        self._said = split(said)  # published words that hypotheses of the current segment begin with
        self._loose = True  # nobody knows yet whether they do: they come from before the segment
        self._before: deque[Sequence[str]] = deque(maxlen=MOST - 1)  # hypotheses of this segment, newest first

    def hear(self, words: Sequence[str], sure: Sequence[float], past_s: Sequence[float] = ()) -> tuple[str, str]:
        """A hypothesis of the segment so far -> (new text, provisional text).

        `sure`: the probability of each word; `past_s`: the seconds of sound after it (none: unknown, taken for 0)."""
        k, tail = self._after_published(words)
        rests = [other[self._after_published(other)[0] :] for other in self._before]
        agreed = 0
        for i, word in enumerate(words[k:-1]):  # the last word was probably cut short
            others = takewhile(lambda rest: i < len(rest) and _norm(rest[i]) == _norm(word), rests)  # noqa: B023
            if 1 + sum(1 for _ in others) < wanted(sure[k + i], past_s[k + i] if past_s else 0.0):
                break
            agreed += 1
        self._before.appendleft(words)
        if agreed and self._loose:
            self._said, self._loose = list(words[:k]), False
        new, rest = self._publish(tail, words[k : k + agreed]), words[k + agreed :]
        if agreed:  # punctuation after the last published word waits until a word follows: it often changes
            tail = _tail(words[k + agreed - 1])
        guess = self._joined(tail + "".join(rest)).rstrip(_CUT_SHORT) if rest else ""
        return new, guess if _norm(guess) else ""

    def finish(self, words: Sequence[str]) -> str:
        """The last hypothesis of a segment -> the rest of its text; the next hypothesis is of the next segment.

        A segment may be cut before the last of the published words: those are left for the next one."""
        k, tail = self._after_published(words)
        left = self._said[align(self._said, words)[0] :]
        new = self._publish(tail, words[k:], whole=True)
        self._before.clear()
        self._said, self._loose = left, True
        return new

    def ending(self, words: Sequence[str]) -> str:
        """All of the text if it ended with this hypothesis; nothing changes."""
        k, tail = self._after_published(words)
        return self.text + self._joined(tail + "".join(words[k:]))

    def _after_published(self, words: Sequence[str]) -> tuple[int, str]:
        """(the first word that follows what is published, the punctuation that belongs before it)."""
        j, k, cost = align(self._said, words)
        if self._loose and 2 * cost > sum(len(word) for word in self._said[:j]):
            return 0, ""  # too unlike: what was published lies before this segment
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
