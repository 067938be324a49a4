"""Tests of how much of the provisional text stood."""

from __future__ import annotations

import pytest

from shared.guesses import PENDING, Guesses


def share(*told: tuple[str, str]) -> float | None:
    guesses = Guesses()
    for kind, text in told:
        guesses.guess(text) if kind == "?" else guesses.confirm(text)
    return guesses.share()


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([], None),
        ([("?", ""), ("!", "Yes.")], None),
        ([("?", "he was"), ("!", "He was not.")], 1.0),
        ([("?", "hi"), ("?", "He was"), ("!", "He was.")], 2 / 3),
        ([("!", "He"), ("?", " was nut"), ("!", " was not.")], 0.5),
        ([("?", "you're all"), ("!", "You’re all going")], 1.0),
        ([("?", "was not"), ("!", "He was not.")], 1.0),  # a word came before it
        ([("?", "never said")], 0.0),
        ([("!", "in"), ("?", "side the"), ("!", "side the house")], 0.5),  # a delta may end inside a word
        ([("?", "こんに"), ("!", "こんばんは")], 2 / 3),
    ],
)
def test_a_provisional_word_stood_if_it_is_in_the_text_at_its_place(
    told: list[tuple[str, str]], expected: float | None
) -> None:
    assert share(*told) == (None if expected is None else pytest.approx(expected))


def test_a_long_turn_keeps_little_and_judges_all() -> None:
    guesses, sentence = Guesses(), ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    for _ in range(200):
        for number, word in enumerate(sentence):
            guesses.guess(f" {word} {sentence[(number + 1) % 10]}")
            guesses.confirm(f" {word}")
    assert guesses.share() == pytest.approx(1.0, abs=0.001)
    assert len(guesses._pending) <= PENDING
