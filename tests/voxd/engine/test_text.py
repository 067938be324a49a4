"""Token ids become text without broken characters, in deltas that join to the whole."""

from __future__ import annotations

import random

import pytest

from voxd.engine.text import Writer

PAD, WORD = 256, 257
BYTES = (*(bytes([i]) for i in range(256)), b"", b"")


def ids_of(text: str) -> list[int]:
    return list(text.encode())


def test_a_control_token_between_the_bytes_of_a_character_breaks_nothing() -> None:
    first, *rest = ids_of("鬱")
    writer = Writer(BYTES)
    assert writer.write([first, PAD]) == ""
    assert writer.write([WORD, *rest]) == "鬱"


@pytest.mark.parametrize("seed", range(20))
def test_deltas_join_to_the_decode_of_the_whole(seed: int) -> None:
    rng = random.Random(seed)
    ids = [rng.randrange(258) for _ in range(300)]
    writer, deltas, at = Writer(BYTES), [], 0
    while at < len(ids):
        step = rng.randrange(1, 5)
        guess = writer.guess(ids[at : at + step])
        deltas.append(writer.write(ids[at : at + step]))
        assert deltas[-1] == guess
        at += step
    deltas.append(writer.finish())
    whole = b"".join(BYTES[i] for i in ids).decode("utf-8", "replace").lstrip()
    assert "".join(deltas) == writer.text == whole


def test_a_character_that_never_ends_is_replaced_at_the_end() -> None:
    writer = Writer(BYTES)
    assert writer.write(ids_of("a鬱")[:-1]) == "a"
    assert writer.finish() == "\ufffd"


def test_a_text_does_not_begin_with_a_space() -> None:
    writer = Writer(BYTES)
    assert [writer.write(ids_of(word)) for word in (" ", " So", " it")] == ["", "So", " it"]


def test_what_a_client_holds_is_not_said_again() -> None:
    writer = Writer(BYTES, said="So it beg")
    assert [writer.write(ids_of(word)) for word in (" So", " it", " began", ".")] == ["", "", "an", "."]
    assert writer.text == "So it began."


def test_a_text_that_goes_on_differently_continues_with_the_words_that_follow() -> None:
    writer = Writer(BYTES, said="So it begins")
    assert writer.guess(ids_of(" So")) == ""
    news = [writer.write(ids_of(word)) for word in (" So", " it", " began", " again", " now")]
    assert "".join(news) == " again now"
    assert writer.finish() == ""


def test_a_text_that_ends_earlier_than_before_adds_nothing() -> None:
    writer = Writer(BYTES, said="So it begins again")
    assert writer.write(ids_of("So it")) + writer.finish() == ""
    assert writer.text == "So it begins again"
