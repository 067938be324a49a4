"""Words of a window with their times.  Step 8.

Pure: it makes words of what the model's attention tells of each token (dynamic time warping over the cross-attention,
`align` of CTranslate2, as in openai/whisper's timing.py).  It does not know the model, streams or files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared.audio import RATE, Float32, to_samples

if TYPE_CHECKING:
    from ctranslate2 import StorageView

LONGEST_WORD = RATE  # silence beside a word is counted to it; no word takes longer


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the encoder made of `size` samples."""

    features: StorageView | Float32
    size: int


@dataclass(frozen=True, slots=True)
class TimedWord:
    """`text` with the space before it; samples of the window."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Written:
    """What was heard in a window; no words, if what came out was not to be trusted."""

    words: tuple[TimedWord, ...] = ()
    language: str | None = None
    tokens: int = 0


def timed_words(found: Iterable[Mapping[str, Any]]) -> list[TimedWord]:
    """The entries of `find_alignment` (word, start and end in seconds) -> words, each with its punctuation."""
    words: list[TimedWord] = []
    opening = ""  # quotes and brackets in front of the next word
    for entry in found:
        text = str(entry["word"])
        start, end = to_samples(1000 * float(entry["start"])), to_samples(1000 * float(entry["end"]))
        spoken = any(character.isalnum() for character in text)
        if not spoken and text.startswith(" "):
            opening += text
        elif not spoken and words:
            last = words[-1]
            words[-1] = TimedWord(last.text + text, last.start, last.end)
        elif spoken:
            if end - start > LONGEST_WORD:  # a pause lies behind a word, but before the first
                start, end = (start, start + LONGEST_WORD) if words else (end - LONGEST_WORD, end)
            words.append(TimedWord(opening + (text.lstrip() if opening else text), start, max(start, end)))
            opening = ""
    return words
