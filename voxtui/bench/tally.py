"""What became of each turn: a session's events booked by the timetable; then figures over all sessions.

Not in the path.  Pure.  The metrics are those of the session's own meter (`shared.latency`); it is only decided here to
which turn they belong, and what is counted instead of measured.  The same turns as voxd counted them are in `reports`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace

from shared.audio import to_samples
from shared.events import Error, ResponseCreated, ResponseDone, SpeechStopped, TranscriptionFailed
from shared.latency import OF_A_TURN, Summary, TurnMetrics, percentile, summarise
from voxtui.bench.plan import BenchPlan, Part
from voxtui.events import Event, Measured, Relinked
from voxtui.session.meter import Meter, Report

METRICS = tuple(metric.name for metric in OF_A_TURN)
UPLINK = "uplink_ms"  # of a packet, from the capture of its last sample to its arrival in the session
LATE = "late_ms"  # of the bench itself: how late a packet went out


@dataclass(slots=True)
class Counts:
    """How many turns ended in which way.  What went wrong has no latency, so it is counted here.

    turns were due and heard brought words; missed ones brought none.  An answer that the next turn cut short is
    interrupted: an open loop does not wait for it."""

    sessions: int = 0
    refused: int = 0
    turns: int = 0
    heard: int = 0
    missed: int = 0
    failed: int = 0
    interrupted: int = 0
    reconnects: int = 0
    errors: int = 0

    def add(self, other: Counts) -> None:
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric as voxd counts it and as it was measured here from voxd's own estimate of speech; None: only voxd
    knows it.

    `difference`: the median over the turns of here - voxd."""

    voxd: Summary
    here: Summary | None
    difference: float | None


@dataclass(slots=True)
class Result:
    """Counts and figures of one run, or of several that belong together."""

    counts: Counts = field(default_factory=Counts)
    turns: list[TurnMetrics] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)  # turns on which voxd has reported
    late_ms: list[float] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)  # refusals and errors, one sentence each
    cpu_s: dict[str, float] = field(default_factory=dict)  # seconds that each process computed in the window
    window_s: float = 0.0

    def add(self, other: Result) -> None:
        self.counts.add(other.counts)
        self.turns += other.turns
        self.reports += other.reports
        self.late_ms += other.late_ms
        self.reasons += other.reasons
        for name, used in other.cpu_s.items():
            self.cpu_s[name] = self.cpu_s.get(name, 0.0) + used
        self.window_s += other.window_s

    def figures(self) -> dict[str, Summary]:
        """Figures of each metric that applied, in the order of the table."""
        uplink_ms = [each.uplink_ms for each in self.reports if each.uplink_ms is not None]
        more = {UPLINK: uplink_ms, LATE: self.late_ms}
        return summarise(self.turns) | {name: Summary.of(values) for name, values in more.items() if values}

    def compared(self) -> dict[str, Compared]:
        """Each metric that voxd reports, as voxd counts it and as it was measured here."""
        voxd, here = summarise(each.voxd for each in self.reports), summarise(each.here for each in self.reports)
        pairs = [(each.voxd.as_dict(), each.here.as_dict()) for each in self.reports]
        found = {}
        for name, said in voxd.items():
            more = [measured[name] - told[name] for told, measured in pairs if name in told and name in measured]
            found[name] = Compared(said, here.get(name), percentile(more, 50) if more else None)
        return found

    def cores(self) -> dict[str, float]:
        """How many cores each process kept busy."""
        return {name: used / self.window_s for name, used in self.cpu_s.items()} if self.window_s else {}


class Tally:
    """Counts and figures of one session.  `meter`: the session's, once there is one; it knows what voxd reports."""

    meter: Meter | None = None

    def __init__(self, part: Part, plan: BenchPlan) -> None:
        self._part, self._plan = part, plan
        self._turn: dict[str, int] = {}  # utterance or answer -> turn
        self._said = 0  # the turn that was spoken last
        self._measured: dict[str, TurnMetrics] = {}
        self._reports: dict[str, Report] = {}
        self._cut: set[str] = set()  # answers that were interrupted
        self._counts = Counts(sessions=1)
        self._reasons: Counter[str] = Counter()

    def receive(self, event: Event) -> None:
        match event:
            case SpeechStopped(item_id=key, audio_end_ms=end):
                self._said = self._turn[key] = self._part.turn(to_samples(end))
            case ResponseCreated(response=response):
                self._turn[response.id] = self._said
            case Measured(key=key, metrics=metrics):
                self._measured[key] = metrics
                if self.meter is not None and (report := self.meter.report(key)) is not None:
                    self._reports[key] = report
            case ResponseDone(response=response) if response.status == "cancelled":
                self._counts.interrupted += 1
                self._cut.add(response.id)
            case ResponseDone(response=response) if response.status == "failed":
                self._failed("An answer failed.")
            case TranscriptionFailed(error=error):
                self._failed(error.message)
            case Error(error=body):
                self.error(body.message)
            case Relinked():
                self._counts.reconnects += 1
            case _:
                pass

    def refused(self, reason: str) -> None:
        """Notes that the session never began."""
        self._counts.refused += 1
        self._reasons[reason] += 1

    def error(self, reason: str) -> None:
        self._counts.errors += 1
        self._reasons[reason] += 1

    def _failed(self, reason: str) -> None:
        self._counts.failed += 1
        self._reasons[reason] += 1

    def result(self) -> Result:
        """The result so far; warm-up turns are not measured, but what went wrong in them is counted."""
        turns = {key: turn for key in self._measured if (turn := self._turn.get(key, -1)) >= self._plan.warmup}
        due = 0 if self._counts.refused else self._plan.turns
        heard = len(set(turns.values()))
        counts = replace(self._counts, turns=due, heard=heard, missed=due - heard)
        measured = [self._whole(key, self._measured[key]) for key in turns]
        reports = [
            Report(self._whole(key, report.voxd), self._whole(key, report.here), report.uplink_ms)
            for key, report in self._reports.items()
            if key in turns
        ]
        return Result(counts, measured, reports, reasons=self._reasons)

    def _whole(self, key: str, metrics: TurnMetrics) -> TurnMetrics:
        """The metrics without those of a whole answer, which one that was cut short does not have."""
        return replace(metrics, total_ms=None) if key in self._cut else metrics


def total(tallies: Iterable[Tally]) -> Result:
    """Adds up the results of all sessions."""
    whole = Result()
    for tally in tallies:
        whole.add(tally.result())
    return whole
