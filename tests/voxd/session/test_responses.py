"""How the text of an answer becomes deltas."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from voxd.session.responses import Chunker, ChunkPolicy, split_words


def test_by_default_each_text_goes_at_once() -> None:
    chunker = Chunker(ChunkPolicy())

    assert chunker.receive("Hi", 0) == "Hi"
    assert chunker.deadline_us is None


def test_a_burst_is_split_into_deltas_of_two_words() -> None:
    chunker = Chunker(ChunkPolicy())

    assert list(chunker.cut(chunker.receive("one two three four five", 0))) == ["one two", " three four", " five"]


def test_zero_means_no_splitting() -> None:
    assert list(Chunker(ChunkPolicy(max_words=0)).cut("one two three")) == ["one two three"]


def test_text_is_held_until_there_are_enough_words() -> None:
    chunker = Chunker(ChunkPolicy(min_words=3, max_words=0))

    assert chunker.receive("one", 1000) == ""
    assert chunker.receive(" two", 2000) == ""
    assert chunker.deadline_us == 1000 + 50_000
    assert chunker.receive(" three", 3000) == "one two three"
    assert chunker.deadline_us is None


def test_held_text_is_released_at_the_end() -> None:
    chunker = Chunker(ChunkPolicy(min_words=3))
    chunker.receive("one", 0)

    assert chunker.release() == "one"
    assert chunker.release() == ""


@pytest.mark.parametrize("text", ["", " ", "\n\n", " a ", "a\nb\tc  d", "日本 語"])
def test_pieces_join_without_a_trace(text: str) -> None:
    assert "".join(split_words(text, 1)) == text


@given(st.lists(st.text(st.sampled_from("ab \n"), max_size=6)), st.integers(1, 4), st.integers(0, 3))
def test_nothing_is_lost_or_invented(texts: list[str], least: int, most: int) -> None:
    chunker = Chunker(ChunkPolicy(min_words=least, max_words=most))
    whole = [each for each in (*(chunker.receive(text, 0) for text in texts), chunker.release()) if each]
    pieces = [piece for each in whole for piece in chunker.cut(each)]

    assert "".join(pieces) == "".join(texts)
    assert "" not in pieces
    if most:
        assert all(len(piece.split()) <= most for piece in pieces)
