"""Turns the facts that a session reports into latencies: for `voxd.metrics`, a turn's log line and missed targets.
Beside steps 4 to 11 of a packet's path.

Pure: every time is given to it.  The metrics are those of `shared.latency`.  It does not know sockets or engines.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from msgspec import UNSET

from shared import events
from shared.audio import RATE, to_ms, to_samples
from shared.latency import SampleClock, TurnMetrics, TurnStamps
from voxd import messages as m
from voxd.session.outbox import Note, ResponseNote, UtteranceNote

OPEN_TURNS = 64  # utterances and responses of one session whose end is awaited; beyond it the oldest is forgotten


@dataclass(slots=True)
class Targets:
    """The latencies in ms that responses should stay below, as the operator has set them.

    All sessions share one instance: when the settings are read again, the new values apply to all of them at once."""

    ttft_server_ms: float = 100
    ttft_engine_ms: float = 100
    total_ms: float = 1000

    def take(self, others: Targets) -> None:
        """Copies the values of `others`."""
        self.ttft_server_ms, self.ttft_engine_ms, self.total_ms = (
            others.ttft_server_ms,
            others.ttft_engine_ms,
            others.total_ms,
        )

    def breaches(self, metrics: TurnMetrics) -> dict[str, float]:
        """The targets that were missed, by the name of the metric."""
        found = metrics.as_dict()
        names = ("ttft_engine_ms", "ttft_server_ms", "total_ms")
        return {name: getattr(self, name) for name in names if found.get(name, 0) > getattr(self, name)}


@dataclass(slots=True)
class _Open:
    """An utterance or a response that is not over yet."""

    ref: int
    item_id: str
    stamps: TurnStamps
    response_id: str | None = None
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0


@dataclass(frozen=True, slots=True)
class TurnReport:
    """The measurements of a turn that is over."""

    metrics: TurnMetrics
    deltas: int
    text_span_ms: float | None  # from the first delta to the last
    audio_ms: int
    event: events.Metrics | None  # for a client that asked for it


class Observer(Protocol):
    """Told what every session does, to add it up."""

    def received(self, samples: int) -> None:
        """Audio came from a client: so many more samples at 16 kHz."""

    def speculated(self) -> None:
        """The engine has begun an answer before the client asked for it."""

    def warned(self, code: str) -> None:
        """The engine has warned the session, by this code."""

    def written(self, event: events.ServerEvent, report: TurnReport | None) -> None:
        """An event was written to a client; `report` is there if a turn ended with it."""


class TurnMeter:
    """Measures the turns of one session."""

    def __init__(self) -> None:
        self._clock = SampleClock()
        self._open: OrderedDict[str, _Open] = OrderedDict()  # by item id (utterances) or response id
        self._by_ref: dict[int, str] = {}
        self._delay_ms = 0  # the configured delay of text behind its audio

    def receive_audio(self, end: int, now_us: int) -> None:
        """Told that all samples up to `end` have been received."""
        self._clock.record(end, now_us)

    def receive_note(self, note: Note, now_us: int) -> None:
        match note:
            case UtteranceNote():
                stamps = self._turn(note.item_id, note.ref, note.item_id).stamps
                stamps.first_voiced, stamps.last_voiced = note.voiced_start, note.voiced_end
                stamps.first_voiced_us = self._clock.time_of(note.voiced_start)
                stamps.last_voiced_us = self._clock.time_of(note.voiced_end)
                stamps.decided_us = stamps.commit_us = now_us
                stamps.audio_us = (note.end - note.start) * 1_000_000 // RATE
            case ResponseNote():
                spoken = self._open.get(note.item_id) if note.item_id else None
                turn = self._turn(note.response_id, note.ref, note.item_id or "")
                turn.response_id = note.response_id
                turn.stamps.commit_us = now_us
                if spoken:
                    turn.stamps.first_voiced = spoken.stamps.first_voiced
                    turn.stamps.last_voiced = spoken.stamps.last_voiced
                    turn.stamps.last_voiced_us = spoken.stamps.last_voiced_us
                    turn.stamps.decided_us = spoken.stamps.decided_us

    def receive_output(self, output: m.Output) -> None:
        """Takes the engine's own times from an output."""
        if not isinstance(output, m.Said | m.Settled):
            return
        key = self._by_ref.get(output.ref)
        if key is None:
            return
        turn = self._open[key]
        stamps = turn.stamps
        stamps.engine_commit_us = output.commit_us or stamps.engine_commit_us
        if isinstance(output, m.Said):
            if output.text and stamps.engine_first_us is None and turn.response_id:
                stamps.engine_first_us = output.at_us
        else:
            stamps.compute_us, stamps.saved_us = output.compute_us, output.saved_us
            turn.tokens_in, turn.tokens_cached = output.input_tokens, output.cached_tokens
            turn.tokens_out = output.output_tokens

    def written(self, event: events.ServerEvent, now_us: int) -> TurnReport | None:
        """An event was written to the socket.  Returns a report if a turn ended with it."""
        match event:
            case events.SessionCreated(session=session) | events.SessionUpdated(session=session):
                self._delay_ms = session.voxd.delay_ms or 0
            case events.Provisional(item_id=key, text=text):
                self._turn(key, None, key).stamps.guess(now_us, text)
            case events.TranscriptionDelta(item_id=key, delta=delta, voxd_audio_ms=ms):
                stamps = self._turn(key, None, key).stamps
                stamps.guesses.confirm(delta)
                if delta.strip():
                    reached_us = None if ms is UNSET else self._clock.time_of(to_samples(ms))
                    stamps.text(now_us, reached_us, self._delay_ms)
            case events.OutputTextDelta():
                self._turn(event.response_id, None, event.item_id).stamps.delta(now_us)
            case events.TranscriptionCompleted():
                self._turn(event.item_id, None, event.item_id).stamps.final_us = now_us
                return self._close(event.item_id, "transcription")
            case events.TranscriptionFailed():
                self._forget(event.item_id)
            case events.ResponseDone():
                return self._close(event.response.id, "response")
        return None

    def _turn(self, key: str, ref: int | None, item_id: str) -> _Open:
        turn = self._open.get(key)
        if turn is None:
            turn = self._open[key] = _Open(-1 if ref is None else ref, item_id, TurnStamps())
            while len(self._open) > OPEN_TURNS:
                self._forget(next(iter(self._open)))
        if ref is not None:
            turn.ref = ref
            self._by_ref[ref] = key
        return turn

    def _forget(self, key: str) -> _Open | None:
        turn = self._open.pop(key, None)
        if turn:
            self._by_ref.pop(turn.ref, None)
        return turn

    def _close(self, key: str, scope: str) -> TurnReport | None:
        turn = self._forget(key)
        if turn is None:
            return None
        stamps = turn.stamps
        metrics = stamps.metrics(user=False)
        span = None
        if stamps.first_delta_us is not None and stamps.last_delta_us is not None:
            span = (stamps.last_delta_us - stamps.first_delta_us) / 1000
        event = _event(turn, scope, metrics)
        return TurnReport(metrics, stamps.deltas, span, stamps.audio_us // 1000, event)


def _event(turn: _Open, scope: str, metrics: TurnMetrics) -> events.Metrics:
    """The `voxd.metrics` event of a turn; whoever sends it sets `event_id`."""
    s = turn.stamps
    stamps = {
        "speech_start_us": s.first_voiced_us,
        "speech_end_us": s.last_voiced_us,
        "vad_decision_us": s.decided_us,
        "commit_us": s.commit_us,
        "engine_commit_us": s.engine_commit_us,
        "first_token_us": s.engine_first_us,
        "first_delta_sent_us": s.first_delta_us or s.first_text_us,
        "last_delta_sent_us": s.last_delta_us,
        "done_sent_us": s.final_us,
    }
    audio = {"speech_start_ms": s.first_voiced, "speech_end_ms": s.last_voiced}
    tokens = {"input": turn.tokens_in, "cached": turn.tokens_cached, "output": turn.tokens_out}
    derived = metrics.as_dict()
    rtf, stood = derived.pop("rtf", None), derived.pop("stood", None)
    return events.Metrics(
        event_id="",
        scope="response" if scope == "response" else "transcription",
        item_id=turn.item_id,
        response_id=turn.response_id or UNSET,
        stamps={name: us for name, us in stamps.items() if us is not None},
        derived_ms=derived,
        audio={name: to_ms(sample) for name, sample in audio.items() if sample is not None},
        tokens=tokens if any(tokens.values()) else {},
        compute_ms=s.compute_us / 1000,
        rtf=UNSET if rtf is None else rtf,
        stood=UNSET if stood is None else stood,
    )
