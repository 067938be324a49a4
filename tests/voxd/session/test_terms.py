"""The configuration that takes effect, and the warnings where it is not as asked for."""

from __future__ import annotations

import pytest

from shared import events
from tests.support.talk import SILENCE, Desk
from voxd import messages as m
from voxd.session.terms import Profile


def test_a_client_that_opted_in_is_told_what_is_not_as_asked_for() -> None:
    asked = {
        "output_modalities": ["audio"],
        "audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}}},
    }
    shy, aware = Desk("realtime"), Desk("realtime", resume=True)
    for desk in (shy, aware):
        desk.send(events.SessionUpdate(session=asked))

    assert shy.all(events.Notice) == []
    assert [notice.code for notice in aware.all(events.Notice)] == ["model_mapped", "modality_coerced"]


@pytest.mark.parametrize(
    ("session", "code"),
    [
        ({"output_modalities": ["audio"]}, "invalid_value"),
        ({"audio": {"input": {"transcription": {"model": "whisper-1"}}}}, "model_not_found"),
    ],
)
def test_a_strict_server_refuses_it(session: dict[str, object], code: str) -> None:
    desk = Desk("realtime", Profile("echo", "echo", strict_models=True, strict_modalities=True))
    before = desk.session.config
    desk.send(events.SessionUpdate(session=session))

    assert desk.last(events.Error).error.code == code
    assert desk.session.config == before


# ── delay ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("session", "effective"),
    [
        ({}, 480),
        ({"audio": {"input": {"transcription": {"delay": "low"}}}}, 240),
        ({"voxd": {"delay_ms": 960}}, 960),
        ({"audio": {"input": {"transcription": {"delay": "minimal"}}}, "voxd": {"delay_ms": 960}}, 960),
    ],
)
def test_the_delay_in_effect_is_echoed_and_reaches_the_engine(session: dict[str, object], effective: int) -> None:
    desk = Desk(profile=Profile("realtime", None, delay_ms=480), resume=True)
    desk.send(events.SessionUpdate(session=session))

    assert desk.last(events.SessionUpdated).session.voxd.delay_ms == effective
    assert desk.last(m.Open).delay_ms == effective
    assert desk.all(events.Notice) == []


def test_an_engine_without_a_delay_says_so() -> None:
    desk = Desk(resume=True)
    desk.send(events.SessionUpdate(session={"voxd": {"delay_ms": 240}}))

    assert desk.last(events.SessionUpdated).session.voxd.delay_ms is None
    assert [notice.code for notice in desk.all(events.Notice)] == ["delay_ignored"]


# ── what is committed or cleared before it is heard ─────────────────────────────────────────────────────────────────


def test_turns_inside_one_commit_are_items_of_their_own() -> None:
    desk = Desk()
    for _ in range(2):
        desk.speak(20, hear=False)
        desk.speak(20, SILENCE, hear=False)
    desk.send(events.AudioCommit())
    desk.hear()

    onsets, commits = desk.all(m.Onset), desk.all(m.Commit)
    assert [onset.ref for onset in onsets] == [commit.ref for commit in commits]
    assert len({onset.ref for onset in onsets}) == 2
    assert len(desk.all(events.Committed)) == 2
    for commit in commits:
        desk.settle(commit.ref, "one")
    assert len(desk.all(events.TranscriptionCompleted)) == 2


def test_what_is_cleared_before_it_is_heard_starts_nothing() -> None:
    desk = Desk()
    desk.names()
    desk.speak(30, hear=False)
    desk.send(events.AudioClear())
    desk.speak(20, SILENCE)

    assert desk.names() == ["input_audio_buffer.cleared"]
    assert desk.all(m.Onset) == []
    assert desk.turn()


def test_a_clear_does_not_reach_what_was_committed_before() -> None:
    desk = Desk(turn_detection=None)
    desk.speak(30, hear=False)
    desk.send(events.AudioCommit(), events.AudioClear())
    desk.hear()
    desk.settle(desk.last(m.Commit).ref, "Kept.")

    assert desk.last(events.TranscriptionCompleted).transcript == "Kept."
