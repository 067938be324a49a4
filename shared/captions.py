"""What was said in a file, with times: captions (SubRip, WebVTT) and tables.  Step 12, and step 11 for files.

Pure.  A cue has two lines of at most 42 characters, stands 7 s at most, and no two stand at once.  Where the engine has
told when each word was said, cues begin and end with words; else the time of an utterance is shared out among its words
by their letters.  It does not know files, engines or the wire.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WIDTH, LINES = 42, 2  # characters of a line, lines of a cue
LONGEST_MS = 7000
LEAST_MS = 1000  # a cue stands at least as long where there is room
PAUSE_MS = 700  # a pause so long between two words ends a cue
_WRITTEN_APART = r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f]"  # scripts without spaces
_UNIT = re.compile(rf"{_WRITTEN_APART}|(?:(?!{_WRITTEN_APART})\S)+")
_CLOSING = re.compile(r"^\W+$")
_SENTENCE = re.compile(r"[.!?…。！？]['\"”’)]*$")


@dataclass(frozen=True, slots=True)
class CaptionWord:
    """A word, ms of the file."""

    text: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class FileTurn:
    """One utterance, ms of the file.  `words`: with their times, in order; () if nobody knows them."""

    start_ms: int
    end_ms: int
    text: str
    words: tuple[CaptionWord, ...] = ()


@dataclass(frozen=True, slots=True)
class Cue:
    """What stands on the screen for a while."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


def words_of(turn: FileTurn) -> list[CaptionWord]:
    """The words of a turn with the times that are known, else with a share of the turn by their letters."""
    if turn.words:
        return list(turn.words)
    units = _units(turn.text)
    whole, length, out, at = sum(map(len, units)), turn.end_ms - turn.start_ms, list[CaptionWord](), 0
    for unit in units:
        start, at = at, at + len(unit)
        out.append(CaptionWord(unit, turn.start_ms + length * start // whole, turn.start_ms + length * at // whole))
    return out


def _units(text: str) -> list[str]:
    """Words; characters of scripts that put no space between words; punctuation with what it follows."""
    units: list[str] = []
    end = -1
    for found in _UNIT.finditer(text):
        for at in range(found.start(), found.end(), WIDTH):
            unit = text[at : min(at + WIDTH, found.end())]
            if units and at == end and _CLOSING.match(unit) and len(units[-1]) + len(unit) <= WIDTH:
                units[-1] += unit
            else:
                units.append(unit)
            end = at + len(unit)
    return units


# ── cues ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def cues(turns: Sequence[FileTurn]) -> list[Cue]:
    """All turns as captions, in order."""
    found = [cue for turn in turns for cue in _cues_of(turn)]
    out: list[Cue] = []
    for number, (start, end, text) in enumerate(found):
        start = max(start, out[-1].end_ms) if out else start
        following = found[number + 1][0] if number + 1 < len(found) else start + LEAST_MS
        until = min(max(end, min(start + LEAST_MS, following)), start + LONGEST_MS)
        out.append(Cue(start, max(start + 1, until), _wrapped(text)))
    return out


def _cues_of(turn: FileTurn) -> Iterator[tuple[int, int, str]]:
    """(start, end, text) of each."""
    group: list[CaptionWord] = []
    at = begin = 0  # where in the text of the turn we are, and where the group begins
    end = 0
    text = " ".join(turn.text.split())
    for word in _placed(turn):
        place = text.find(word.text, at)
        begin = begin if group else place
        if group and _full(group, text[begin : place + len(word.text)], word):
            yield group[0].start_ms, group[-1].end_ms, text[begin:end].strip()
            group, begin = [], place
        group.append(word)
        at = end = place + len(word.text)
    if group:
        yield group[0].start_ms, group[-1].end_ms, text[begin:].strip()


def _placed(turn: FileTurn) -> list[CaptionWord]:
    """The words of the turn as they stand in its text; words that do not are not trusted."""
    text, at = " ".join(turn.text.split()), 0
    words = [part for word in words_of(turn) for part in _short(word)]
    for word in words:
        at = text.find(word.text, at)
        if at < 0:
            return words_of(FileTurn(turn.start_ms, turn.end_ms, turn.text))
        at += len(word.text)
    return words


def _short(word: CaptionWord) -> list[CaptionWord]:
    """A word that fits into a line, or its parts."""
    if len(word.text) <= WIDTH:
        return [word]
    return words_of(FileTurn(word.start_ms, word.end_ms, word.text))


def _full(group: Sequence[CaptionWord], text: str, following: CaptionWord) -> bool:
    """Whether the group, which would have this text with the word that follows, is a cue without it."""
    if len(textwrap.wrap(text, WIDTH)) > LINES or following.end_ms - group[0].start_ms > LONGEST_MS:
        return True
    rest = following.start_ms - group[-1].end_ms >= PAUSE_MS
    return rest or (_SENTENCE.search(group[-1].text) is not None and len(text) > WIDTH)


def _wrapped(text: str) -> tuple[str, ...]:
    """One line, or two of about the same length."""
    lines = textwrap.wrap(text, WIDTH)
    for width in range(len(text) // 2, WIDTH) if len(lines) > 1 else ():
        narrow = textwrap.wrap(text, max(1, width))
        if len(narrow) == len(lines):
            return tuple(narrow)
    return tuple(lines)


# ── forms ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def srt(turns: Sequence[FileTurn]) -> str:
    """SubRip.  Players take tags and braces for orders, and it knows no escape."""
    return "\n".join(
        f"{number}\n{_span(cue, ',')}\n{_untagged(chr(10).join(cue.lines))}\n"
        for number, cue in enumerate(cues(turns), 1)
    )


def vtt(turns: Sequence[FileTurn]) -> str:
    """WebVTT, with markup characters escaped."""
    shown = (f"{_span(cue, '.')}\n{_escaped(chr(10).join(cue.lines))}\n" for cue in cues(turns))
    return "\n".join(("WEBVTT\n", *shown))


def tsv(turns: Sequence[FileTurn]) -> str:
    """A table with tabs, a line for an utterance: start and end in ms, text.  As openai/whisper writes it."""
    rows = (f"{turn.start_ms}\t{turn.end_ms}\t{' '.join(turn.text.split())}\n" for turn in turns)
    return "".join(("start\tend\ttext\n", *rows))


def _untagged(text: str) -> str:
    return text.replace("-->", "→").translate(str.maketrans("<>{}", "‹›()"))


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _span(cue: Cue, point: str) -> str:
    return f"{clock(cue.start_ms, point)} --> {clock(cue.end_ms, point)}"


def clock(ms: int, point: str) -> str:
    """hh:mm:ss, a point or comma, and ms."""
    seconds, ms = divmod(ms, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{ms:03d}"
