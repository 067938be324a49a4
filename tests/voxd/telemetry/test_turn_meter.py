"""The turn meter puts times to the facts that a session reports."""

from __future__ import annotations

import logging

import pytest

from shared import events
from shared.events import Response
from tests.support.talk import STREAM
from voxd import messages as m
from voxd.session.outbox import ResponseNote, UtteranceNote
from voxd.telemetry.log import BreachLimiter, SessionLog, line
from voxd.telemetry.turn_meter import OPEN_TURNS, Targets, TurnMeter, TurnReport

MS = 1000


def done(response_id: str) -> events.ResponseDone:
    response = Response(response_id, "completed", (), "c", "inf")
    return events.ResponseDone("e", response)


def transcribed() -> TurnReport:
    meter = TurnMeter()
    for packet in range(1, 200):
        meter.receive_audio(packet * 320, packet * 20 * MS)
    meter.written(events.TranscriptionDelta("e", "item", 0, "Hi"), 700 * MS)
    meter.receive_note(UtteranceNote(1, "item", 0, 33_536, 1600, 32_000, 40_000), 2520 * MS)
    meter.receive_output(m.Settled(STREAM, 1, "completed", "Hi.", compute_us=419_200))
    report = meter.written(events.TranscriptionCompleted("e", "item", 0, "Hi.", {}), 2600 * MS)
    assert report is not None
    return report


def answered() -> TurnReport:
    meter = TurnMeter()
    meter.receive_note(ResponseNote(2, "resp", None), 0)
    for step in range(15):
        at = 38 * MS + step * 40 * MS
        meter.receive_output(m.Said(STREAM, 2, "x", at_us=at, commit_us=1))
        meter.written(events.OutputTextDelta("e", "resp", "item", 0, 0, "x"), at + 3 * MS)
    report = meter.written(done("resp"), 700 * MS)
    assert report is not None
    return report


def test_a_transcription_is_measured_from_the_arrival_of_its_samples() -> None:
    report = transcribed()

    assert report.metrics.as_dict() == {
        "endpoint_ms": 520.0,
        "first_words_ms": 600.0,
        "first_text_ms": 600.0,
        "final_ms": 600.0,
        "rtf": 0.2,
    }
    assert line(report) == "first words 600 ms · first text 600 ms · final 600 ms · audio 2.1 s · rtf 0.20"


def test_an_answer_is_told_as_the_roadmap_wants_it() -> None:
    assert line(answered()) == "ttft engine 38 ms · first delta 41 ms · 15 deltas in 560 ms"


def test_the_wire_gets_stamps_and_only_what_applies() -> None:
    event = transcribed().event
    assert event is not None

    assert event.derived_ms["final_ms"] == 600.0
    assert event.audio == {"speech_start_ms": 100, "speech_end_ms": 2000}
    assert event.stamps["vad_decision_us"] == 2520 * MS
    assert "first_token_us" not in event.stamps
    assert "rtf" not in event.derived_ms
    assert event.rtf == 0.2


def test_an_answer_says_which_speech_it_answers() -> None:
    """A reader can put its own times to the same samples."""
    meter = TurnMeter()
    for packet in range(1, 200):
        meter.receive_audio(packet * 320, packet * 20 * MS)
    meter.receive_note(UtteranceNote(1, "item", 0, 33_536, 1600, 32_000, 40_000), 2520 * MS)
    meter.receive_note(ResponseNote(2, "resp", "item"), 2520 * MS)
    report = meter.written(done("resp"), 2600 * MS)
    assert report is not None
    assert report.event is not None

    assert report.event.audio == {"speech_start_ms": 100, "speech_end_ms": 2000}
    assert report.event.derived_ms == {"endpoint_ms": 520.0}


def test_a_delta_without_a_word_is_no_first_text() -> None:
    meter = TurnMeter()
    meter.receive_audio(32_000, 2000 * MS)
    for text, at in (("\n ", 2100 * MS), ("Hi", 2200 * MS)):
        meter.written(events.TranscriptionDelta("e", "item", 0, text), at)
    meter.receive_note(UtteranceNote(1, "item", 0, 32_000, 32_000, 32_000, 32_000), 2520 * MS)
    report = meter.written(events.TranscriptionCompleted("e", "item", 0, "Hi", {}), 2600 * MS)
    assert report is not None

    assert report.metrics.first_text_ms == 200.0


def test_turns_that_never_end_are_forgotten() -> None:
    meter = TurnMeter()
    for number in range(3 * OPEN_TURNS):
        meter.receive_note(ResponseNote(number, f"resp{number}", None), 0)

    assert meter.written(done("resp0"), 1) is None
    assert meter.written(done(f"resp{3 * OPEN_TURNS - 1}"), 1) is not None


def test_a_breach_is_counted_always_and_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    log = SessionLog("sess_x", Targets(ttft_engine_ms=10), BreachLimiter())
    report = answered()
    with caplog.at_level(logging.INFO, "voxd"):
        for second in (0, 10, 59, 61):
            log.turn(report, second * 1_000_000)

    assert log.breaches == 4
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 2
    assert "ttft_engine_ms 38 > 10" in told[0]
