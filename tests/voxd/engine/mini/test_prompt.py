"""Prompts of Voxtral Mini beside those of the checkpoint's own tokenizer, id by id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

import pytest

from tests.support.tiny_mini import AUDIO, PER_WINDOW, TRANSCRIBE, Reference, Turn, reference
from tests.support.tiny_voxtral import BOS, EOS, RATE, Samples, speechlike
from voxd.engine.mini.interface import SpecialTokens, audio
from voxd.engine.mini.prompt import (
    AudioPart,
    Part,
    PromptLine,
    TokenIds,
    conversation_prompt,
    shared,
    transcription_prompt,
)

SHORT, OTHER, LONG = speechlike(1.0, 1), speechlike(2.0, 2), speechlike(31.0, 3)


@cache
def own() -> Reference:
    return reference(0)


@cache
def special() -> SpecialTokens:
    tekken = own().processor.tokenizer.tokenizer.instruct_tokenizer.tokenizer
    token_ids = {
        "begin_inst": "[INST]", "end_inst": "[/INST]", "begin_system": "[SYSTEM_PROMPT]",
        "end_system": "[/SYSTEM_PROMPT]", "begin_audio": "[BEGIN_AUDIO]", "transcribe": "[TRANSCRIBE]",
    }  # fmt: skip
    known = {name: tekken.get_special_token(token) for name, token in token_ids.items()}
    return SpecialTokens(bos=BOS, eos=EOS, pieces=(), encode=own().encode, **known)


def lines(turns: Iterable[Turn]) -> list[PromptLine]:
    """The same turns for the engine: every 30 s of a clip are a window with a number of its own."""
    found, numbers = [], iter(range(100))

    def part(given: Samples | str) -> Part:
        if isinstance(given, str):
            return given
        return AudioPart(tuple(next(numbers) for _ in range(-(-given.size // (30 * RATE)))))

    for role, parts in turns:
        found.append(PromptLine(role, tuple(part(each) for each in parts)))
    return found


def as_ids(symbols: Sequence[int]) -> list[int]:
    """The prompt's ids, with the same placeholder for all audio."""
    return [symbol if symbol >= 0 else AUDIO for symbol in symbols]


LAYOUTS: dict[str, list[Turn]] = {
    "audio": [("user", [SHORT])],
    "more than 30 s": [("user", [LONG])],
    "audio and text": [("user", [SHORT, "What is said?"])],
    "text and audio": [("user", ["What is said?", SHORT])],
    "two clips": [("user", [SHORT, LONG, "compare"])],
    "text around clips": [("user", ["One.", SHORT, "two", LONG, "three"])],
    "turns": [("user", [SHORT, "Who?"]), ("assistant", ["Hi there."]), ("user", [OTHER])],
    "many turns": [
        ("user", [SHORT]),
        ("assistant", ["Hi."]),
        ("user", ["And?"]),
        ("assistant", [" Well, 42"]),
        ("user", [LONG, " x "]),
    ],
    "instructions and text": [("system", ["Be brief."]), ("user", ["hello"])],
    "instructions and turns": [("system", ["Be brief."]), ("user", ["a"]), ("assistant", ["b"]), ("user", ["c"])],
    "one text after the other": [("user", ["One.", "two\n", "\nthree"])],
    "the user twice": [("user", ["One."]), ("user", [SHORT]), ("user", ["Two."]), ("user", ["Three"])],
    "the model twice": [("user", [SHORT]), ("assistant", ["A."]), ("assistant", ["B"]), ("user", ["c"])],
    "the model first": [("assistant", ["Hi."]), ("user", ["hello"])],
    "nothing": [("user", [""])],
    "letters of many scripts": [("user", ["Grüß Gott, 你好 😀\n\tпривет  "])],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_prompt_is_that_of_the_tokenizer(name: str) -> None:
    turns = LAYOUTS[name]
    assert as_ids(conversation_prompt(special(), lines(turns))) == own().prompt(turns)


@pytest.mark.parametrize("language", [None, "en", "pt"])
@pytest.mark.parametrize("clip", [SHORT, LONG], ids=["short", "long"])
def test_a_transcription_is_asked_for_as_the_tokenizer_does(clip: Samples, language: str | None) -> None:
    ((found,),) = [line.parts for line in lines([("user", [clip])])]
    assert isinstance(found, AudioPart)
    assert as_ids(transcription_prompt(special(), found, language)) == own().transcription(clip, language)
    assert own().transcription(clip, language)[-1] == TRANSCRIBE


def test_instructions_beside_audio_are_the_first_words_of_the_first_user() -> None:
    """The tokenizer refuses them in a system message."""
    turns: list[Turn] = [("system", ["Be brief."]), ("user", [SHORT]), ("assistant", ["Yes."]), ("user", [OTHER])]
    with pytest.raises(ValueError, match="system messages"):
        own().prompt(turns)
    told: list[Turn] = [("user", ["Be brief.", SHORT]), *turns[2:]]
    assert as_ids(conversation_prompt(special(), lines(turns))) == own().prompt(told)


def test_instructions_later_on_are_the_users_words() -> None:
    """The tokenizer knows no system message but at the beginning."""
    turns: list[Turn] = [("user", ["a"]), ("assistant", ["b"]), ("system", ["Be brief."]), ("user", ["c"])]
    with pytest.raises(Exception, match="Unexpected role 'system'"):
        own().prompt(turns)
    told: list[Turn] = [*turns[:2], ("user", ["Be brief.", "c"])]
    assert as_ids(conversation_prompt(special(), lines(turns))) == own().prompt(told)


def test_a_later_prompt_begins_with_the_earlier_one_and_what_was_said() -> None:
    """The ids of an answer are kept as they are, whatever text they stand for."""
    said = (1300, 1100, 1511)
    first = lines([("user", [SHORT, "Who?"])])
    later = [*first, PromptLine("assistant", (TokenIds(said),)), *lines([("user", ["And?"])])]
    before, after = conversation_prompt(special(), first), conversation_prompt(special(), later)
    assert after[: len(before) + 4] == [*before, *said, EOS]
    assert shared(before, after) == len(before)


def test_a_line_that_is_still_spoken_has_no_end() -> None:
    turns = LAYOUTS["more than 30 s"]
    assert as_ids(conversation_prompt(special(), lines(turns), open_ended=True)) == own().prompt(turns)[:-1]


def test_two_prompts_are_alike_as_far_as_their_audio_is() -> None:
    one = conversation_prompt(special(), [PromptLine("user", (AudioPart((7,)), "x"))])
    other = conversation_prompt(special(), [PromptLine("user", (AudioPart((8,)), "x"))])
    assert shared(one, one) == len(one)
    assert shared(one, other) == 3, "<s>[INST][BEGIN_AUDIO]"
    assert one[3] == audio(7, 0)
    assert one[2 + PER_WINDOW] == audio(7, PER_WINDOW - 1)
