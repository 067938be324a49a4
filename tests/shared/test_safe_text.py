"""shared.safe_text: nothing that a server says acts on the terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings, strategies as st

from shared.safe_text import LIMIT, safe_line, safe_text

NASTY = st.text(alphabet=st.sampled_from(list("\x1b]52;c0PX^_\x07\x9b\x9d\x9c[@mJ\\ abc\r\n\t\u202e\u2066\u200fé漢😀")))
TEXT = NASTY | st.text()


def dangerous(character: str) -> bool:
    kind = unicodedata.category(character)
    bidi = unicodedata.bidirectional(character) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return bidi or (kind in {"Cc", "Cs", "Zl", "Zp"} and character not in "\n\t")


@settings(max_examples=500, deadline=None)
@given(st.lists(TEXT, max_size=6))
@example(["\x1b", "]52;c;AAAA\x07"])
@example(["\x1b\u200e[31m"])
def test_nothing_acts_on_the_terminal(deltas: list[str]) -> None:
    """Even text that is joined from halves has no effect, and a second pass changes nothing."""
    joined = "".join(safe_text(delta) for delta in deltas)
    assert not any(map(dangerous, joined))
    joined.encode("utf-8")
    assert safe_text(joined) == joined


@given(st.text(alphabet=st.characters(codec="utf-8", categories=("L", "M", "N", "P", "S", "Zs"))))
def test_words_of_all_languages_stay(text: str) -> None:
    assert safe_text(text) == text


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("red \x1b[1;31mword\x1b[0m", "red word"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]52;c;Y3VybA==\x1b\\after", "after"),
        ("\x1bP1$r\x9cafter", "after"),
        ("\x9b2Jafter", "after"),
        ("\x1bcafter", "after"),
        ("bell\x07 null\x00", "bell\ufffd null\ufffd"),
        ("a\r\nb\rc\td", "a\nb\nc\td"),
        ("abc\u202edef", "abc\ufffddef"),
        ("\u200fשלום\u200e", "שלום"),
        ("one\u2028two", "one\ntwo"),
    ],
)
def test_cases(text: str, safe: str) -> None:
    assert safe_text(text) == safe


def test_bounds() -> None:
    assert len(safe_text("x" * (LIMIT + 1))) == LIMIT
    assert safe_line(" a\n\n b\x1b[m ") == "a b"
