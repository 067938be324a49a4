"""The scripted engine: what it says and when, on a clock that needs no waiting."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, strategies as st

from voxd.engine.contract import EngineCommand, Unusable
from voxd.engine.echo import SPECULATIVE_TOKENS, VAD_FRAME, WORD, Echo, words
from voxd.messages import (
    Cancel,
    Close,
    Commit,
    Crop,
    Flush,
    Heard,
    Onset,
    Open,
    Output,
    Respond,
    Rollback,
    Said,
    Settled,
    Speculate,
)

TOKEN_US = 20_000
BEGUN_US = 5_000_000


class Script:
    """One Echo with one stream open, and a clock."""

    def __init__(self, **options: object) -> None:
        self.engine = Echo(options, lambda: None)
        self.now_us = BEGUN_US
        self.tell(Open(1, ("transcribe", "respond")))

    def tell(self, *commands: EngineCommand) -> list[Output]:
        for command in commands:
            self.engine.receive(command)
        return list(self.engine.step(self.now_us))

    def after(self, us: int) -> list[Output]:
        self.now_us += us
        return list(self.engine.step(self.now_us))

    def deadlines(self) -> Iterator[list[Output]]:
        """Steps at each deadline until there is none."""
        while (deadline := self.engine.deadline_us) is not None:
            yield self.after(max(0, deadline - self.now_us))


def texts(outputs: list[Output]) -> list[str]:
    return [output.text for output in outputs if isinstance(output, Said)]


def voiced(frames: int, start: int = 0) -> Heard:
    return Heard(1, start, (0.9,) * frames)


# ── the answer ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_answer_is_200_tokens_20_ms_apart() -> None:
    script = Script()
    assert script.tell(Respond(1, 7, ())) == []
    said: list[Said] = []
    for outputs in script.deadlines():
        said += [output for output in outputs if isinstance(output, Said)]
        assert script.now_us == BEGUN_US + TOKEN_US * len(said)
    assert [each.tokens for each in said] == [1] * 200
    assert outputs[-1] == Settled(1, 7, "completed", "".join(each.text for each in said), output_tokens=200)
    assert outputs[-1] == Settled(1, 7, "completed", words(200), output_tokens=200)


def test_nothing_is_due_before_its_time() -> None:
    script = Script()
    script.tell(Respond(1, 7, ()))
    assert script.after(TOKEN_US - 1) == []
    assert texts(script.after(1)) == ["one"]
    assert script.engine.deadline_us == BEGUN_US + 2 * TOKEN_US


def test_a_late_step_says_all_that_is_due_token_by_token() -> None:
    script = Script()
    script.tell(Respond(1, 7, ()))
    assert texts(script.after(3 * TOKEN_US + 5)) == ["one", " two", " three"]


def test_an_answer_that_was_limited_is_incomplete() -> None:
    script = Script()
    script.tell(Respond(1, 7, (), max_tokens=3))
    *_, last = script.deadlines()
    assert last == [Said(1, 7, " three", tokens=1), Settled(1, 7, "incomplete", "one two three", output_tokens=3)]


def test_a_limit_above_its_length_limits_nothing() -> None:
    script = Script(tokens=2)
    script.tell(Respond(1, 7, (), max_tokens=1000))
    *_, last = script.deadlines()
    assert last[-1] == Settled(1, 7, "completed", "one two", output_tokens=2)


def test_length_and_pace_are_options() -> None:
    script = Script(tokens=4, token_ms=100)
    script.tell(Respond(1, 7, ()))
    assert texts(script.after(400_000)) == ["one", " two", " three", " four"]
    assert script.engine.deadline_us is None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"token": 1},
            r"engine_options\.echo\.token: unknown key \(did you mean tokens\?\); allowed here: tokens",
        ),
        ({"tokens": 0}, r"engine_options\.echo\.tokens: expected an integer of at least 1, got 0"),
        ({"token_ms": "fast"}, r"engine_options\.echo\.token_ms: expected .*'fast'"),
        ({"tokens": True}, r"engine_options\.echo\.tokens: expected .*true"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(options: dict[str, object], told: str) -> None:
    with pytest.raises(Unusable, match=told):
        Echo(options, lambda: None)


def test_a_cancelled_answer_settles_with_what_was_said() -> None:
    script = Script()
    script.tell(Respond(1, 7, ()))
    script.after(2 * TOKEN_US)
    assert script.tell(Cancel(1, 7)) == [Settled(1, 7, "cancelled", "one two", output_tokens=2)]
    assert (script.after(TOKEN_US), script.engine.deadline_us) == ([], None)


def test_answers_of_two_streams_run_side_by_side() -> None:
    script = Script()
    script.tell(Open(2, ("respond",)), Respond(1, 7, ()), Respond(2, 7, (), max_tokens=1))
    outputs = script.after(TOKEN_US)
    assert outputs == [
        Said(1, 7, "one", tokens=1),
        Said(2, 7, "one", tokens=1),
        Settled(2, 7, "incomplete", "one", output_tokens=1),
    ]


# ── speculation ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_speculation_says_nothing_and_wants_nothing() -> None:
    script = Script()
    assert script.tell(Speculate(1, 7, 3, 16_000, ())) == []
    assert script.engine.deadline_us is None, "it has begun; until Respond there is nothing to wake up for"
    assert script.after(60_000_000) == []


def test_at_most_16_tokens_are_ready_when_the_answer_is_asked_for() -> None:
    script = Script()
    script.tell(Speculate(1, 7, 3, 16_000, ()))
    script.after(SPECULATIVE_TOKENS * TOKEN_US)
    assert texts(script.tell(Respond(1, 7, ()))) == [words(i + 1, i) for i in range(16)]
    assert script.engine.deadline_us == BEGUN_US + 17 * TOKEN_US


def test_a_speculation_waits_at_16_tokens_and_goes_on_from_there() -> None:
    """A long pause before Respond must not let the answer jump: what was not computed cannot be ready."""
    script = Script()
    script.tell(Speculate(1, 7, 3, 16_000, ()))
    script.after(10_000_000)
    assert len(texts(script.tell(Respond(1, 7, ())))) == 16
    assert script.engine.deadline_us == script.now_us + TOKEN_US
    assert texts(script.after(TOKEN_US)) == [words(17, 16)]


def test_a_cropped_speculation_is_forgotten() -> None:
    script = Script()
    script.tell(Speculate(1, 7, 3, 16_000, ()))
    script.after(10 * TOKEN_US)
    assert script.tell(Crop(1, 7), Respond(1, 8, ())) == []
    assert texts(script.after(TOKEN_US)) == ["one"]


def test_a_cancelled_speculation_says_nothing() -> None:
    script = Script()
    script.tell(Speculate(1, 7, 3, 16_000, ()))
    assert script.tell(Cancel(1, 7)) == []


# ── the transcript ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_words_go_by_position_up_to_the_last_voiced_frame() -> None:
    script = Script()
    script.tell(Onset(1, 3, 0))
    assert script.tell(voiced(9)) == [], "288 ms are no word yet"
    assert script.tell(voiced(1, 9 * VAD_FRAME)) == [Said(1, 3, "one", samples=WORD)]
    assert script.tell(Heard(1, WORD, (0.1,) * 100)) == [], "silence has no words"
    assert script.tell(voiced(1, 30 * VAD_FRAME)) == [Said(1, 3, " two three", samples=31 * VAD_FRAME)]


def test_the_end_brings_the_rest() -> None:
    script = Script()
    script.tell(Onset(1, 3, 0), voiced(10))
    outputs = script.tell(Commit(1, 3, 2 * WORD))
    assert outputs == [Said(1, 3, " two", samples=2 * WORD), Settled(1, 3, "completed", "one two")]


def test_a_replay_continues_what_a_client_holds() -> None:
    script = Script()
    script.tell(Onset(1, 3, 0, "one two"))
    outputs = script.tell(Commit(1, 3, 3 * WORD))
    assert outputs == [Said(1, 3, " three", samples=3 * WORD), Settled(1, 3, "completed", "one two three")]


def test_pauses_and_evictions_are_not_heard() -> None:
    script = Script()
    assert script.tell(Onset(1, 3, 0), Flush(1, 3, 5 * WORD), Rollback(1, 3)) == []


def test_a_cancelled_utterance_and_a_closed_stream_are_silent() -> None:
    script = Script()
    assert script.tell(Onset(1, 3, 0), Cancel(1, 3), voiced(100), Commit(1, 3, WORD)) == []
    assert script.tell(Onset(1, 4, 0), Commit(1, 4, WORD), Respond(1, 5, ()), Close(1)) == []
    assert script.engine.deadline_us is None


@given(st.integers(0, 100_000), st.lists(st.integers(0, 12), max_size=20), st.integers(0, 60_000))
def test_deltas_add_up_to_the_text_however_the_audio_was_cut(start: int, cuts: list[int], rest: int) -> None:
    script = Script()
    said, position = texts(script.tell(Onset(1, 3, start))), start
    for frames in cuts:
        said += texts(script.tell(voiced(frames, position)))
        position += frames * VAD_FRAME
    outputs = script.tell(Commit(1, 3, position + rest))
    said += texts(outputs)
    assert outputs[-1] == Settled(1, 3, "completed", "".join(said))
    assert "".join(said) == words((position + rest - start) // WORD)


def test_where_it_only_answers_it_writes_nothing_down() -> None:
    script = Script()
    script.tell(Open(1, ("respond",)), Onset(1, 1, 0))

    assert script.tell(voiced(40), Commit(1, 1, 40 * VAD_FRAME)) == []
