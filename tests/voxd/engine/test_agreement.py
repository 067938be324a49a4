"""Append-only text from hypotheses."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from voxd.engine.agreement import Transcript, align, split, wanted


def hear(transcript: Transcript, text: str, sure: float = 0.9) -> tuple[str, str]:
    words = split(text)
    return transcript.hear(words, [sure] * len(words))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  ", []),
        (" He was not. ", [" He", " was", " not."]),
        ("He was", [" He", " was"]),
        ("真昼 です", ["真", "昼", " で", "す"]),
        ("4. Queen", [" 4.", " Queen"]),
    ],
)
def test_words_carry_the_space_before_them(text: str, words: list[str]) -> None:
    assert split(text) == words


@pytest.mark.parametrize(
    ("said", "hypothesis", "expected"),
    [
        ("", "a b", (0, 0)),
        ("a b", "", (0, 0)),
        ("he was", "He was not", (2, 2)),
        ("he was not", "He was", (2, 2)),  # the hypothesis ends inside what was said
        ("howdy married", "Had he married a more", (2, 3)),
        ("and crease", "increase, that thereby", (2, 1)),
        ("one two three four five", "one two three", (3, 3)),
        ("go for them", "Go forward ten meters", (3, 2)),
        ("x", "completely different", (1, 0)),
    ],
)
def test_alignment(said: str, hypothesis: str, expected: tuple[int, int]) -> None:
    assert align(split(said), split(hypothesis))[:2] == expected


def test_two_hypotheses_publish_what_they_agree_on_but_the_last_word() -> None:
    transcript = Transcript()
    assert hear(transcript, "He was not.") == ("", "He was not"), "the sound was cut there, no sentence ended"
    assert hear(transcript, "He was not.") == ("He was", " not")
    assert hear(transcript, "He was not an ill...") == (" not", " an ill")
    assert transcript.finish(split("He was not an ill-disposed young man.")) == " an ill-disposed young man."
    assert transcript.text == "He was not an ill-disposed young man."


def test_an_unsure_word_takes_more_hypotheses() -> None:
    assert [wanted(sure, 0.0) for sure in (0.9, 0.6, 0.5, 0.3, 0.1)] == [2, 2, 3, 3, 4]
    assert [wanted(sure, 0.5) for sure in (0.9, 0.6, 0.5, 0.3, 0.1)] == [2, 2, 2, 3, 4]
    transcript = Transcript()
    assert [hear(transcript, "Ferris creatures", 0.1)[0] for _ in range(5)] == ["", "", "", "Ferris", ""]


def test_a_changed_mind_starts_the_count_again() -> None:
    transcript = Transcript()
    new = [hear(transcript, text)[0] for text in ("How do you", "Had he married", "How do you", "Had he married a")]
    assert new == ["", "", "", ""]
    assert hear(transcript, "Had he married her")[0] == "Had he married"


def test_punctuation_waits_for_the_word_after_it() -> None:
    transcript = Transcript()
    hear(transcript, "the corpus. I")
    assert hear(transcript, "the corpus. I am") == ("the corpus. I", " am")
    transcript = Transcript()
    hear(transcript, "the corpus is")
    assert hear(transcript, "the corpus. It was") == ("the corpus", ". It was")
    assert transcript.finish(split("The corpus. It was.")) == ". It was."
    assert transcript.text == "the corpus. It was."


def test_the_final_text_continues_what_was_published_whatever_it_says() -> None:
    transcript = Transcript()
    hear(transcript, "How do you marry the")
    assert hear(transcript, "How do you marry the more")[0] == "How do you marry the"
    assert transcript.finish(split("Had he married a more amiable woman")) == " more amiable woman"


def test_a_shorter_final_text_takes_nothing_back() -> None:
    transcript = Transcript()
    hear(transcript, "so it goes on")
    hear(transcript, "so it goes on")
    assert transcript.text == "so it goes"
    assert transcript.finish(split("so it")) == ""
    assert transcript.finish([]) == ""
    assert transcript.text == "so it goes"


def test_segments_follow_each_other_with_a_space() -> None:
    transcript = Transcript()
    assert transcript.finish(split("One.")) == "One."
    assert transcript.finish(split("Two.")) == " Two."
    assert hear(transcript, "Two. Three") == ("", " Two. Three")


def test_what_a_client_holds_is_not_said_again() -> None:
    transcript = Transcript("It was the best of times, it")
    assert transcript.finish(split("It was the best of times, it was the worst.")) == " was the worst."
    assert transcript.text == "It was the best of times, it was the worst."


def test_what_a_client_holds_may_span_segments() -> None:
    transcript = Transcript("one two three four five")
    assert hear(transcript, "one two")[0] == ""
    assert transcript.finish(split("One two three.")) == ""
    assert transcript.finish(split("Four five six.")) == " six."
    assert transcript.finish(split("Four seven.")) == " Four seven."


def test_words_published_beyond_a_cut_are_not_said_again() -> None:
    transcript = Transcript()
    hear(transcript, "one two three four")
    assert hear(transcript, "one two three four five")[0] == "one two three four"
    assert transcript.finish(split("One two.")) == ""
    assert hear(transcript, "three")[0] == ""
    assert transcript.finish(split("Three four five.")) == " five."


def test_what_was_made_up_at_the_end_of_a_segment_costs_the_next_one_nothing() -> None:
    transcript = Transcript()
    hear(transcript, "one two thanks for")
    assert hear(transcript, "one two thanks for")[0] == "one two thanks"
    assert transcript.finish(split("One two.")) == ""
    hear(transcript, "Three four five")
    assert hear(transcript, "Three four five")[0] == " Three four"
    assert transcript.finish(split("Three four five.")) == " five."


def test_unspaced_scripts_are_published_by_character() -> None:
    transcript = Transcript()
    hear(transcript, "真昼なの")
    assert hear(transcript, "真昼なのに") == ("真昼なの", "に")


@given(st.lists(st.lists(st.sampled_from(["a", "b.", "c,", "Dd", "…", "真"]), max_size=6), max_size=12), st.booleans())
def test_published_texts_always_join_to_the_text(hypotheses: list[list[str]], replay: bool) -> None:
    transcript = Transcript("a b. c," if replay else "")
    joined = transcript.text
    for i, words in enumerate(hypotheses):
        text = " ".join(words)
        joined += transcript.finish(split(text)) if i % 4 == 3 else hear(transcript, text)[0]
        assert transcript.text == joined
    assert not joined.startswith(" ")
