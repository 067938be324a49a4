"""voxtui.session.meter and voxtui.session.ending: arithmetic on a known clip, event by event."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from shared.audio import RATE, Truth, to_samples
from shared.events import (
    Committed,
    Content,
    FailureBody,
    Item,
    ItemAdded,
    Metrics,
    OutputTextDelta,
    Response,
    ResponseCreated,
    ResponseDone,
    ServerEvent,
    SessionCreated,
    TranscriptionFailed,
)
from shared.latency import SampleClock
from shared.session_config import (
    AudioInput,
    Extensions,
    RealtimeAudio,
    RealtimeSession,
    Transcription,
    TranscriptionSession,
)
from tests.support.fakes import utterance
from voxtui.events import Measured
from voxtui.link.replay import Replay
from voxtui.session.ending import Ending
from voxtui.session.meter import Meter


def clock_of(ms: int) -> SampleClock:
    """Sample n was captured at n / RATE seconds."""
    clock = SampleClock()
    for end in range(20, ms + 20, 20):
        clock.record(to_samples(end), end * 1000)
    return clock


def truth_of(*voiced_ms: tuple[int, int]) -> Truth:
    clip = np.zeros(3 * RATE, np.float32)
    for start, stop in voiced_ms:
        clip[to_samples(start) : to_samples(stop)] = 0.5
    return Truth(clip)


def transcription() -> SessionCreated:
    return SessionCreated("", TranscriptionSession(id="s", voxd=Extensions(metrics=True, transcribe="w")))


def conversation() -> SessionCreated:
    sound = RealtimeAudio(AudioInput(transcription=Transcription()))
    engines = Extensions(metrics=True, transcribe="w", respond="m")
    return SessionCreated("", RealtimeSession(id="s", model="m", audio=sound, voxd=engines))


def heard(meter: Meter, events: list[ServerEvent], times_ms: list[int]) -> list[Measured]:
    pairs = zip(events, times_ms, strict=True)
    return [found for found in (meter.receive(event, at * 1000) for event, at in pairs) if found]


ONE = utterance("a", 100, 1900, "one ", "two")  # started, delta, delta, stopped, committed, completed, metrics
TIMES = [700, 900, 1200, 1950, 1951, 2100, 2110]


def test_a_turn_of_a_known_clip() -> None:
    """Speech is voiced from 400 to 1400 ms; everything counts from there."""
    meter = Meter(clock_of(3000), truth_of((400, 1400)))
    meter.receive(transcription(), 0)
    early, first, second = heard(meter, list(ONE), TIMES)
    assert early.metrics.as_dict() == {"first_words_ms": 500.0, "first_text_ms": 500.0}
    assert (early.complete, first.complete, second.complete) == (False, False, True)
    assert first.metrics.rtf is None
    assert second.metrics.as_dict() == {
        "endpoint_ms": 550.0,
        "first_words_ms": 500.0,
        "first_text_ms": 500.0,
        "final_ms": 700.0,
        "rtf": 0.25,
    }
    assert [turn.as_dict() for turn in meter.finished()] == [second.metrics.as_dict()]
    assert meter.span("a") == (to_samples(400), to_samples(1400))


def test_a_turn_at_a_microphone() -> None:
    """Nobody knows the truth: the server's decision less its silence, its start plus its padding."""
    meter = Meter(clock_of(3000))
    meter.receive(transcription(), 0)
    metrics = heard(meter, list(ONE), TIMES)[-1].metrics
    assert meter.span("a") == (to_samples(400), to_samples(1400))
    assert metrics.as_dict() == {
        "endpoint_ms": 550.0,
        "first_words_ms": 500.0,
        "first_text_ms": 500.0,
        "final_ms": 700.0,
        "rtf": 0.25,
    }


def test_a_server_without_metrics() -> None:
    """The turn is complete with its text."""
    meter = Meter(clock_of(3000))
    meter.receive(SessionCreated("", TranscriptionSession(id="s")), 0)
    found = heard(meter, list(ONE[:-1]), TIMES[:-1])
    assert [measured.complete for measured in found] == [False, True]
    assert "rtf" not in found[1].metrics.as_dict()


def test_what_holds_no_words_is_not_measured() -> None:
    meter = Meter(clock_of(3000))
    meter.receive(transcription(), 0)
    assert heard(meter, utterance("a", 100, 1900), [700, 1950, 1951, 2100, 2110]) == []
    assert meter.finished() == []


def test_speech_outside_the_truth_has_no_figures() -> None:
    meter = Meter(clock_of(3000), truth_of((2500, 2600)))
    meter.receive(transcription(), 0)
    assert heard(meter, list(ONE), TIMES)[-1].metrics.as_dict() == {"rtf": 0.25}


def answer(key: str) -> Response:
    return Response(key, "completed", None, (), None, "inf", None, None)


def test_an_answer_counts_from_the_last_voiced_sample() -> None:
    meter = Meter(clock_of(3000), truth_of((400, 1400)))
    meter.receive(conversation(), 0)
    heard(meter, list(ONE), TIMES)
    server = {"ttft_server_ms": 90.0, "ttft_engine_ms": 60.0}
    events: list[ServerEvent] = [
        ResponseCreated("", answer("r")),
        OutputTextDelta("", "r", "i", 0, 0, "Good "),
        OutputTextDelta("", "r", "i", 0, 0, "day"),
        ResponseDone("", answer("r")),
        Metrics("", "response", "a", {}, server, {}, {}, 1.0, response_id="r"),
    ]
    metrics = heard(meter, events, [1960, 2050, 2090, 2091, 2092])[-1].metrics
    assert metrics.itl_ms == [40.0]
    assert metrics.as_dict() == {
        "ttft_user_ms": 650.0,
        "ttft_server_ms": 90.0,
        "ttft_engine_ms": 60.0,
        "endpoint_ms": 550.0,
        "total_ms": 139.0,
    }


# ── the same turn as voxd counts it ─────────────────────────────────────────────────────────────────────────────────

SPOKEN = {"speech_start_ms": 448, "speech_end_ms": 1344}  # voxd's estimate; the truth is 400 to 1400


def reported(key: str, scope: Literal["transcription", "response"] = "transcription", **said: float) -> Metrics:
    answered = {} if scope == "transcription" else {"response_id": "r"}
    return Metrics("", scope, key, {}, said, SPOKEN, {}, 1.0, rtf=0.25, **answered)


def test_what_voxd_says_lies_beside_what_was_here() -> None:
    """From voxd's ends of speech; the metrics of the turn stay with the truth."""
    meter = Meter(clock_of(3000), truth_of((400, 1400)))
    meter.receive(transcription(), 0)
    found = heard(meter, [*ONE[:-1], reported("a", endpoint_ms=604.0, final_ms=755.0, wonder_ms=1.0)], TIMES)[-1]
    report = meter.report("a")
    assert report is not None
    assert report.voxd.as_dict() == {"endpoint_ms": 604.0, "final_ms": 755.0, "rtf": 0.25}
    assert report.here.as_dict() == {
        "endpoint_ms": 606.0,
        "first_words_ms": 452.0,
        "first_text_ms": 452.0,
        "final_ms": 756.0,
    }
    assert found.metrics.as_dict() == {
        "endpoint_ms": 550.0,
        "first_words_ms": 500.0,
        "first_text_ms": 500.0,
        "final_ms": 700.0,
        "rtf": 0.25,
    }


def test_an_answer_is_counted_from_the_speech_that_voxd_names() -> None:
    meter = Meter(clock_of(3000), truth_of((400, 1400)))
    meter.receive(conversation(), 0)
    heard(meter, list(ONE), TIMES)
    events = [
        ResponseCreated("", answer("r")),
        OutputTextDelta("", "r", "i", 0, 0, "x"),
        ResponseDone("", answer("r")),
        reported("a", "response", endpoint_ms=604.0, total_ms=88.0),
    ]
    heard(meter, events, [1960, 2050, 2091, 2092])
    report = meter.report("r")
    assert report is not None
    assert report.voxd.as_dict() == {"endpoint_ms": 604.0, "total_ms": 88.0, "rtf": 0.25}
    assert report.here.as_dict() == {"ttft_user_ms": 706.0, "endpoint_ms": 606.0, "total_ms": 99.0}


def test_a_session_that_was_replaced_counts_from_its_own_beginning() -> None:
    """It began a second after the capture did; its report is about the same samples all the same."""
    replay = Replay(keep=2 * RATE)
    replay.append(bytes(2 * 3 * RATE))
    replay.created(transcription())
    meter = Meter(clock_of(3000), truth_of((1400, 2400)))
    meter.receive(transcription(), 0)
    said = [*utterance("a", 100, 1900, "one ", "two")[:-1], reported("a", final_ms=755.0)]
    heard(meter, [replay.receive(event) for event in said], [at + 1000 for at in TIMES])
    report = meter.report("a")
    assert report is not None
    assert report.here.final_ms == 756.0


def test_a_typed_question_has_no_end_of_speech() -> None:
    meter = Meter(clock_of(3000), truth_of((400, 1400)))
    meter.receive(conversation(), 0)
    heard(meter, list(ONE), TIMES)
    meter.receive(ItemAdded("", Item("t", "user", (Content("input_text", text="?"),), "completed"), None), 2_400_000)
    meter.asked(2_500_000)
    events = [ResponseCreated("", answer("r")), OutputTextDelta("", "r", "i", 0, 0, "x"), ResponseDone("", answer("r"))]
    metrics = heard(meter, events, [2550, 2600, 2601])[-1].metrics
    assert metrics.as_dict() == {"total_ms": 100.0}


# ── when a clip is over ─────────────────────────────────────────────────────────────────────────────────────────────


def ending(events: list[ServerEvent], *, sent_ms: int = 3000, session: SessionCreated | None = None) -> Ending:
    found = Ending(3 * RATE, truth_of((400, 1400)))
    found.receive(session or transcription())
    found.sent(to_samples(sent_ms))
    for event in events:
        found.receive(event)
    return found


@pytest.mark.parametrize(
    ("events", "sent_ms", "busy", "over"),
    [
        ([], 3000, False, False),  # voiced samples that nobody has accounted for
        (ONE[:1], 3000, True, False),  # speaking
        (ONE[:4], 3000, True, False),  # no text yet
        (ONE[:-1], 3000, False, False),  # its metrics are on their way
        (ONE, 3000, False, True),
        (ONE, 2000, False, False),  # not all has been sent
        (utterance("a", 100, 1900), 3000, False, True),  # no words: no metrics are awaited
        (utterance("a", 100, 900, "x"), 3000, False, False),  # speech goes on behind it
        ([*ONE[:5], TranscriptionFailed("", "a", 0, FailureBody("t", "c", "m"))], 3000, False, True),
    ],
)
def test_a_clip_is_over(events: list[ServerEvent], sent_ms: int, busy: bool, over: bool) -> None:
    found = ending(list(events), sent_ms=sent_ms)
    assert (found.busy, found.over) == (busy, over)


def test_silence_is_over_when_it_has_been_sent() -> None:
    found = Ending(RATE, Truth(np.zeros(RATE, np.float32)))
    found.receive(transcription())
    assert not found.over
    found.sent(RATE)
    assert found.over


def test_a_microphone_is_never_over() -> None:
    found = Ending(None, None)
    found.sent(10**9)
    assert not found.played
    assert not found.over


def test_an_answer_is_awaited() -> None:
    found = ending(list(ONE), session=conversation())
    assert (found.busy, found.over) == (True, False)
    found.receive(ResponseDone("", answer("r")))
    assert (found.busy, found.over) == (False, False)  # its report is still to come
    found.receive(Metrics("", "response", "a", {}, {}, {}, {}, 1.0, response_id="r"))
    assert (found.busy, found.over) == (False, True)


def test_a_commit_at_the_end_is_awaited() -> None:
    """Its item ends after everything that lay before it."""
    found = ending([])
    found.expect_commit()
    assert found.busy
    for event in [Committed("", "z", None), utterance("z", 0, 0)[-2]]:
        found.receive(event)
    assert found.over


def test_nothing_left_to_commit() -> None:
    found = ending([])
    found.expect_commit()
    found.nothing_to_commit()
    assert found.over
