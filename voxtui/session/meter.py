"""How fast it was, as the person felt it: events with their times become the metrics of each turn.  Step 12.

Pure: it is told when an event was received and asks a SampleClock when a sample was captured; it reads no clock.  Where
speech really began and ended it learns from the clip (`truth`), else it takes the server's decision less the silence
that the decision waited for.  What voxd says of the same turn is kept beside it.  It does not know what is said.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace

from msgspec import UNSET

from shared.audio import RATE, to_samples
from shared.events import (
    Committed,
    Item,
    ItemAdded,
    Metrics,
    OutputTextDelta,
    Pong,
    Provisional,
    ResponseCreated,
    ResponseDone,
    ServerEvent,
    SessionCreated,
    SessionUpdated,
    SpeechStarted,
    SpeechStopped,
    TranscriptionCompleted,
    TranscriptionDelta,
)
from shared.latency import VOXD_ONLY, SampleClock, TurnMetrics, TurnStamps, VoicedTruth
from shared.session_config import AnySession, ServerVad
from voxtui.events import Measured

TURNS = 1000  # turns whose stamps are kept; the oldest go
ONSET = 5 * RATE  # speech begins within this many samples of the padded start


@dataclass(frozen=True, slots=True)
class Report:
    """One turn counted twice from the same ends of speech, voxd's own estimate of them.

    `voxd`: between its own stamps; `here`: from capture to receipt.  `uplink_ms`: from the capture of the last sample
    of a packet to that packet in the session, where pings have told how the two clocks differ."""

    voxd: TurnMetrics
    here: TurnMetrics
    uplink_ms: float | None = None


@dataclass(slots=True)
class MeteredTurn:
    """One utterance or one answer."""

    key: str
    stamps: TurnStamps = field(default_factory=TurnStamps)
    start: int = 0  # where the server says that the utterance, padding included, begins
    report: Report | None = None
    words: bool = False
    complete: bool = False

    def metrics(self) -> TurnMetrics:
        found = self.stamps.metrics(user=True)
        if self.report is not None:
            for name in VOXD_ONLY:
                setattr(found, name, getattr(self.report.voxd, name))
        return found


class Meter:
    """Measures the turns of one session."""

    def __init__(self, clock: SampleClock, truth: VoicedTruth | None = None) -> None:
        self._clock = clock
        self._truth = truth
        self._turns: OrderedDict[str, MeteredTurn] = OrderedDict()
        self._floor: MeteredTurn | None = None  # the utterance that the next answer answers; None: it was typed
        self._asked_us: int | None = None
        self._released_us: int | None = None  # when the commit that is on its way was sent
        self._vad = ServerVad()
        self._server_reports = False
        self._delay_ms = 0  # by which text trails audio, as the session asked
        self._best: tuple[int, int] | None = None  # shortest round trip of a ping, and voxd's clock less this one then

    def finished(self) -> list[TurnMetrics]:
        """The metrics of every turn that ended with words, in order."""
        return [turn.metrics() for turn in self._turns.values() if turn.complete and turn.words]

    def report(self, key: str) -> Report | None:
        """What voxd reported about a turn, if it has."""
        turn = self._turns.get(key)
        return None if turn is None else turn.report

    def span(self, key: str) -> tuple[int, int] | None:
        """First and last voiced sample of an utterance."""
        turn = self._turns.get(key)
        if turn is None or turn.stamps.first_voiced is None or turn.stamps.last_voiced is None:
            return None
        return turn.stamps.first_voiced, turn.stamps.last_voiced

    def asked(self, at_us: int) -> None:
        """The person has typed something and asks for an answer."""
        self._floor, self._asked_us = None, at_us

    def released(self, at_us: int) -> None:
        """Push-to-talk: what was said ended with the sample captured then, and is being committed."""
        self._released_us = at_us
        self._floor = MeteredTurn("", TurnStamps(last_voiced_us=at_us, commit_us=at_us))

    def receive(self, event: ServerEvent, at_us: int) -> Measured | None:
        """Takes one event; returns the metrics of a turn when they have changed for good."""
        match event:
            case SessionCreated(session=session) | SessionUpdated(session=session):
                self._configured(session)
            case SpeechStarted():
                self._started(event)
            case SpeechStopped():
                self._stopped(event, at_us)
            case Committed(item_id=key):
                self._committed(self._turn(key).stamps, at_us)
            case ItemAdded(item=Item(role="user") as item) if any(p.type == "input_text" for p in item.content):
                self._floor = None
            case Provisional(item_id=key, text=text):
                turn = self._turn(key)
                return self._first(turn) if turn.stamps.guess(at_us, text) else None
            case TranscriptionDelta(item_id=key, delta=delta, voxd_audio_ms=ms):
                turn = self._turn(key)
                turn.stamps.guesses.confirm(delta)
                if not delta.strip():
                    return None
                reached_us = self._captured(None if ms is UNSET else ms)
                fresh = turn.stamps.first_text_us is None
                turn.stamps.text(at_us, reached_us, self._delay_ms)
                return self._first(turn) if fresh else None
            case TranscriptionCompleted(item_id=key, transcript=text):
                turn = self._turn(key)
                turn.stamps.final_us = at_us
                return self._over(turn, words=bool(text.strip()))
            case ResponseCreated(response=response):
                self._answering(response.id)
            case OutputTextDelta(response_id=key, delta=delta) if delta:
                turn = self._turn(key)
                fresh = turn.stamps.deltas == 0
                turn.stamps.delta(at_us)
                return self._first(turn) if fresh else None
            case ResponseDone(response=response):
                turn = self._turn(response.id)
                return self._over(turn, words=turn.stamps.deltas > 0)
            case Metrics():
                return self._reported(event)
            case Pong(t0=int(sent_us)):
                self._answered(sent_us, event.t1_us, event.t2_us, at_us)
            case _:
                pass
        return None

    def _turn(self, key: str) -> MeteredTurn:
        turn = self._turns.setdefault(key, MeteredTurn(key))
        while len(self._turns) > TURNS:
            self._turns.popitem(last=False)
        return turn

    def _configured(self, session: AnySession) -> None:
        vad = session.audio.input.turn_detection
        self._vad = vad if isinstance(vad, ServerVad) else ServerVad()
        self._server_reports = session.voxd.metrics
        self._delay_ms = session.voxd.delay_ms or 0

    def _started(self, event: SpeechStarted) -> None:
        turn = self._turn(event.item_id)
        turn.start = to_samples(event.audio_start_ms)
        first = turn.start + to_samples(self._vad.prefix_padding_ms)
        if self._truth is not None:
            # The truth may lie outside what the server heard; then there is none, and no metric pretends otherwise.
            known = self._truth.first_voiced(turn.start, turn.start + ONSET)
            if known is None:
                return
            first = known
        turn.stamps.first_voiced = first
        turn.stamps.first_voiced_us = self._clock.time_of(first)

    def _stopped(self, event: SpeechStopped, at_us: int) -> None:
        turn = self._turn(event.item_id)
        decided = to_samples(event.audio_end_ms)
        last: int | None = max(turn.start, decided - to_samples(self._vad.silence_duration_ms))
        if self._truth is not None:
            last = self._truth.last_voiced(turn.start, decided)
            if self._truth.first_voiced(turn.start, decided) is None:
                turn.stamps.first_voiced = turn.stamps.first_voiced_us = None
        if last is not None:
            turn.stamps.last_voiced = last
            turn.stamps.last_voiced_us = self._clock.time_of(last)
        turn.stamps.decided_us = at_us
        self._floor = turn

    def _committed(self, stamps: TurnStamps, at_us: int) -> None:
        stamps.commit_us = at_us
        if self._released_us is not None:
            stamps.last_voiced_us, self._released_us = self._released_us, None

    def _answering(self, key: str) -> None:
        """An answer inherits the end of speech that it answers; a typed question has none."""
        turn, floor = self._turn(key), self._floor
        if floor is None:
            turn.stamps.commit_us = self._asked_us
            return
        turn.stamps.last_voiced_us = floor.stamps.last_voiced_us
        turn.stamps.decided_us = floor.stamps.decided_us
        turn.stamps.commit_us = floor.stamps.commit_us

    def _first(self, turn: MeteredTurn) -> Measured:
        """The metrics of how soon a turn's text began; how long it will be is not known yet."""
        found = turn.metrics()
        found.total_ms = None
        return Measured(turn.key, found, complete=False)

    def _over(self, turn: MeteredTurn, *, words: bool) -> Measured | None:
        turn.words = words
        turn.complete = not self._server_reports
        return Measured(turn.key, turn.metrics(), turn.complete) if words else None

    def _reported(self, event: Metrics) -> Measured | None:
        """Takes the server's own figures of a turn."""
        spoken = event.scope == "transcription"
        key = event.item_id if spoken or not isinstance(event.response_id, str) else event.response_id
        turn = self._turn(key)
        turn.complete = True
        first_us, last_us = (self._captured(event.audio.get(end)) for end in ("speech_start_ms", "speech_end_ms"))
        stamps = replace(turn.stamps, first_voiced_us=first_us, last_voiced_us=last_us)
        uplink_ms = self._uplink_ms(last_us, event.stamps.get("speech_end_us"))
        reported = TurnMetrics.of(event.derived_ms)
        reported.rtf = event.rtf if isinstance(event.rtf, float) else None
        reported.stood = event.stood if isinstance(event.stood, float) else None
        turn.report = Report(reported, stamps.metrics(user=True), uplink_ms)
        return Measured(turn.key, turn.metrics(), complete=True) if turn.words else None

    def _answered(self, sent_us: int, t1_us: int, t2_us: int, at_us: int) -> None:
        """Learns the difference of the clocks from the ping with the shortest round trip (RFC 5905, section 10)."""
        round_trip, ahead = at_us - sent_us - (t2_us - t1_us), ((t1_us - sent_us) + (t2_us - at_us)) // 2
        self._best = min(self._best or (round_trip, ahead), (round_trip, ahead))

    def _uplink_ms(self, captured_us: int | None, received_us: int | None) -> float | None:
        if self._best is None or captured_us is None or received_us is None:
            return None
        return (received_us - self._best[1] - captured_us) / 1000

    def _captured(self, ms: int | None) -> int | None:
        """When the sound that ends at this position was captured."""
        return None if ms is None else self._clock.time_of(to_samples(ms))
