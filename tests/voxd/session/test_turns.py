"""Turn-taking from lists of probabilities: no clock, no audio."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from shared.audio import to_samples
from voxd.session.turns import FRAME, TABLE, Act, Cue, Mark, Rules, State, Turns

RULES = Rules()


def play(turns: Turns, probabilities: list[float], start: int = 0, answering: bool = False) -> list[Mark]:
    return [
        mark
        for index, p in enumerate(probabilities)
        for mark in turns.receive_frame(start + index * FRAME, p, answering=answering)
    ]


def acts(marks: list[Mark]) -> list[Act]:
    return [mark.act for mark in marks]


def test_a_turn_starts_pauses_and_ends() -> None:
    marks = play(Turns(RULES), [0.0] * 20 + [0.9] * 30 + [0.0] * 20)

    assert acts(marks) == [Act.STARTED, Act.PAUSED, Act.ENDED]
    started, paused, ended = marks
    assert started.start == 20 * FRAME - RULES.padding
    assert ended.voiced_end == 50 * FRAME
    assert (paused.start, paused.end) == (ended.start, ended.end), "tentative audio is the final audio"
    assert ended.end == 50 * FRAME + RULES.hangover


def test_silence_is_decided_at_the_first_frame_end_at_or_past_it() -> None:
    ended = play(Turns(RULES), [0.9] * 10 + [0.0] * 30)[-1]

    assert ended.decided - ended.voiced_end == 16 * FRAME  # 512 ms: the first multiple of 32 ms >= 500


def test_a_short_pause_is_resumed_and_costs_nothing() -> None:
    marks = play(Turns(RULES), [0.9] * 10 + [0.0] * 8 + [0.9] * 10 + [0.0] * 20)

    assert acts(marks) == [Act.STARTED, Act.PAUSED, Act.RESUMED, Act.PAUSED, Act.ENDED]
    assert marks[-1].voiced_end == 28 * FRAME


def test_one_click_is_not_speech() -> None:
    assert play(Turns(RULES), ([0.9] + [0.0] * 5) * 20) == []


def test_a_frame_between_the_thresholds_prolongs_speech_but_does_not_start_it() -> None:
    assert play(Turns(RULES), [0.4] * 50) == []
    marks = play(Turns(RULES), [0.9] * 5 + [0.4] * 30)
    assert acts(marks) == [Act.STARTED]


def test_speech_over_an_answer_is_a_barge_in() -> None:
    marks = play(Turns(RULES), [0.9] * 5, answering=True)

    assert acts(marks) == [Act.STARTED, Act.BARGE_IN]


def test_padding_never_reaches_into_the_turn_before() -> None:
    turns = Turns(RULES)
    first = play(turns, [0.9] * 10 + [0.0] * 16)[-1]
    second = play(turns, [0.9] * 10, start=26 * FRAME)[0]

    assert first.act is Act.ENDED
    assert second.start >= first.end


def test_a_client_may_end_the_turn_itself() -> None:
    turns = Turns(RULES)
    play(turns, [0.9] * 10)
    (ended,) = turns.receive_commit(10 * FRAME + 100)

    assert ended.act is Act.ENDED
    assert ended.end == 10 * FRAME + 100, "never past what was committed"
    assert turns.receive_commit(11 * FRAME) == []


def test_a_client_may_clear_what_was_said() -> None:
    turns = Turns(RULES)
    play(turns, [0.9] * 10)

    assert acts(turns.receive_clear(10 * FRAME)) == [Act.DROPPED]
    assert play(turns, [0.9] * 5, start=10 * FRAME)[0].start == 10 * FRAME


def test_without_server_vad_pauses_are_told_and_ends_are_not() -> None:
    turns = Turns(Rules(silence=None, limit=None))
    marks = play(turns, [0.9] * 10 + [0.0] * 100 + [0.9] * 5)

    assert acts(marks) == [Act.STARTED, Act.PAUSED, Act.RESUMED]


def test_an_endless_utterance_is_cut() -> None:
    marks = play(Turns(Rules(limit=to_samples(3200))), [0.9] * 250)

    assert acts(marks)[:3] == [Act.STARTED, Act.ENDED, Act.STARTED]


@pytest.mark.parametrize("cue", list(Cue))
@pytest.mark.parametrize("state", list(State))
def test_the_table_opens_and_closes_utterances_consistently(state: State, cue: Cue) -> None:
    after, told = TABLE.get((state, cue), (state, ()))

    opened = state is State.LISTENING and after is not State.LISTENING
    closed = state is not State.LISTENING and after is State.LISTENING
    assert opened == (Act.STARTED in told)
    assert closed == (Act.ENDED in told or Act.DROPPED in told)


frames = st.lists(st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.95]), max_size=300)


@given(frames, st.lists(st.tuples(st.integers(0, 300), st.sampled_from(["commit", "clear"])), max_size=4))
def test_utterances_never_overlap_and_each_ends_once(
    probabilities: list[float], by_client: list[tuple[int, str]]
) -> None:
    turns, marks = Turns(Rules(limit=to_samples(4000))), []
    for index, p in enumerate(probabilities):
        marks += turns.receive_frame(index * FRAME, p)
        for at, what in by_client:
            if at == index:
                act = turns.receive_commit if what == "commit" else turns.receive_clear
                marks += act((index + 1) * FRAME)
    end, going = 0, False
    for mark in marks:
        assert mark.start <= mark.voiced_end <= mark.end <= mark.decided
        match mark.act:
            case Act.STARTED:
                assert not going
                assert mark.start >= end
                going = True
            case Act.ENDED | Act.DROPPED:
                assert going
                going, end = False, mark.end
            case _:
                assert going
    assert going == turns.open
