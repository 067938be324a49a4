"""Captions: two lines of 42, 7 s, one at a time; every word is there once, in its place."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, strategies as st

from shared.captions import LINES, LONGEST_MS, WIDTH, CaptionWord, FileTurn, cues, srt, tsv, vtt, words_of

WORDS = st.text(st.sampled_from("abcdé声<&{.,!?'\"-> ğا"), min_size=1, max_size=60).filter(
    lambda text: bool(text.strip())
)
TEXTS = st.lists(WORDS, min_size=1, max_size=40).map(" ".join)
GAPS = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 60_000)), min_size=1, max_size=6)


@given(st.lists(TEXTS, min_size=6, max_size=6), GAPS, st.booleans(), st.integers(0, 900))
def test_any_turns(texts: list[str], places: list[tuple[int, int]], timed: bool, shift: int) -> None:
    turns, at = [], 0
    for text, (gap, length) in zip(texts, places, strict=False):
        turn = FileTurn(at + gap, at + gap + length, text)
        words = (
            tuple(CaptionWord(w.text, w.start_ms + shift, w.end_ms + shift) for w in words_of(turn)) if timed else ()
        )
        turns.append(FileTurn(turn.start_ms, turn.end_ms, text, words))
        at = turn.end_ms
    found = cues(turns)
    for cue in found:
        assert 1 <= len(cue.lines) <= LINES
        assert all(0 < len(line) <= WIDTH for line in cue.lines)
        assert 0 < cue.end_ms - cue.start_ms <= LONGEST_MS
    assert all(a.end_ms <= b.start_ms for a, b in itertools.pairwise(found))
    shown = "".join("".join(cue.lines) for cue in found)
    assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", "".join(turn.text for turn in turns))


def test_cues_begin_and_end_with_words() -> None:
    words = tuple(
        CaptionWord(text, 1000 * n, 1000 * n + 300) for n, text in enumerate(["Ever", "tried.", "Ever", "failed."])
    )
    (first, *rest) = cues([FileTurn(0, 9000, "Ever tried. Ever failed.", words)])
    assert (first.start_ms, first.lines) == (0, ("Ever",)), "a pause of 700 ms ends a cue"
    assert [cue.start_ms for cue in rest] == [1000, 2000, 3000]


def test_words_that_are_not_in_the_text_are_not_used() -> None:
    (cue,) = cues([FileTurn(0, 2000, "Go forward.", (CaptionWord("Other", 500, 600),))])
    assert cue.lines == ("Go forward.",)


@pytest.mark.parametrize("form", [srt, vtt])
def test_nothing_that_is_said_acts(form: object) -> None:
    told = form([FileTurn(0, 2000, "a <i>b</i> {c} --> 00:00 & d")])  # type: ignore[operator]
    assert told.count("-->") == 1
    assert "<" not in told
    assert srt([]) == ""
    assert vtt([]) == "WEBVTT\n"
    assert srt([FileTurn(3_661_500, 3_662_000, "x")]) == "1\n01:01:01,500 --> 01:01:02,500\nx\n"


def test_a_table() -> None:
    assert tsv([FileTurn(0, 1500, "a\tb\nc")]) == "start\tend\ttext\n0\t1500\ta b c\n"
