"""The latency words: the one table of every metric, and how each is computed.  Beside steps 4 to 12.

`METRICS` is the only list of metrics.  The log, `voxd logs`, Prometheus, the bench, the terminal's screen and its help,
the web page, and the tables of the documents are derived from it or tested against it.

Pure: times come in as integer microseconds of one process's monotonic clock.  It does not know wire events, so both
ends of the wire use it: the server with the times of arrival and of writing (`voxd.telemetry.turn_meter`), the client
with those of capture and of receipt (`voxtui.session.meter`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from shared.audio import RATE
from shared.guesses import Guesses

Scope = Literal["transcription", "response", "both"]
Source = Literal["voxd", "client", "both", "screen"]

_FIRST = (5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 100, 125, 150, 200, 300, 500, 1000, 2000, 5000)
_FINAL = (50, 100, 150, 200, 300, 400, 500, 600, 700, 800, 1000, 1250, 1500, 2000, 2500, 3000, 5000, 10_000)
_TOTAL = (*_FINAL, 20_000, 30_000, 60_000)
_GAP = (1, 2, 5, 10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 500, 1000)
_SHARE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
_RATIO = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One row of the table.  Long lists show every metric; short ones those that have a word for them here."""

    name: str  # in code, on the wire, in the log (capitals) and in goals of the bench
    scope: Scope  # utterances (transcription), answers (response) or both
    source: Source  # who can measure it; "screen": at each painting, not once a turn
    label: str  # where people read it: panel and help of the screen
    meaning: str  # exactly: from where to where
    plain: str  # the same for the person who speaks
    buckets: tuple[float, ...]  # upper bounds of the histogram, in `unit`
    unit: Literal["ms", "ratio"] = "ms"
    several: bool = False  # a turn has a list of values, not one
    line: str = ""  # its word in the log's line of a turn; "": the line does not tell it
    column: str = ""  # in a line of `voxd logs`
    entry: str = ""  # on the screen, below what was said
    page: bool = False  # has a row on the web page


METRICS = (
    Metric(
        name="ttft_user_ms", scope="response", source="client", label="ttft user", buckets=_FIRST,
        meaning="last voiced sample captured → first words of the answer received",
        plain="you stop speaking → the first word of the answer",
        entry="ttft", page=True,
    ),
    Metric(
        name="ttft_engine_ms", scope="response", source="voxd", label="ttft engine", buckets=_FIRST,
        meaning="commit in the engine → first token with text",
        plain="the engine has your turn → its first word",
        line="ttft engine", column="engine", entry="engine",
    ),
    Metric(
        name="ttft_server_ms", scope="response", source="voxd", label="ttft server", buckets=_FIRST,
        meaning="commit → first words of the answer written to the socket",
        plain="the turn is over → voxd has sent the answer's first word",
        line="first delta", column="server", page=True,
    ),
    Metric(
        name="endpoint_ms", scope="both", source="both", label="endpoint", buckets=_FINAL,
        meaning="last voiced sample captured → end of the turn decided",
        plain="you stop speaking → the turn is known to be over",
        column="endpoint", page=True,
    ),
    Metric(
        name="first_words_ms", scope="transcription", source="both", label="first words", buckets=_FINAL,
        meaning="first voiced sample captured → first words that can be seen, provisional or confirmed",
        plain="you begin to speak → the first word can be seen, be it provisional",
        line="first words", column="first words", page=True,
    ),
    Metric(
        name="first_text_ms", scope="transcription", source="both", label="first text", buckets=_FINAL,
        meaning="first voiced sample captured → first confirmed words received",
        plain="you begin to speak → the first word is here for good",
        line="first text", column="first text", entry="first text", page=True,
    ),
    Metric(
        name="lag_over_delay_ms", scope="transcription", source="both", label="lag over delay", buckets=_FINAL,
        meaning="text behind its audio, beyond the delay that was asked for; the median of a turn",
        plain="how far text trails sound, beyond its set delay",
    ),
    Metric(
        name="final_ms", scope="transcription", source="both", label="final", buckets=_FINAL,
        meaning="last voiced sample captured → final text received",
        plain="you stop speaking → the final text is here",
        line="final", column="final", entry="final", page=True,
    ),
    Metric(
        name="total_ms", scope="response", source="both", label="total", buckets=_TOTAL,
        meaning="commit → last words of the answer received",
        plain="the turn is over → the answer's last word",
        column="total", entry="total",
    ),
    Metric(
        name="saved_ms", scope="response", source="voxd", label="head start", buckets=_FIRST,
        meaning="head start of an answer that was begun before the turn was known to be over",
        plain="the answer was begun so long before your turn was known to be over",
    ),
    Metric(
        name="itl_ms", scope="response", source="both", label="token gap", buckets=_GAP, several=True,
        meaning="from one delta of the answer to the next",
        plain="from one piece of an answer to the next",
    ),
    Metric(
        name="render_ms", scope="both", source="screen", label="render", buckets=_GAP,
        meaning="words received → words painted (two frames of a browser: an upper bound)",
        plain="words received → words on the screen",
        page=True,
    ),
    Metric(
        name="stood", scope="transcription", source="both", label="stood", buckets=_SHARE, unit="ratio",
        meaning="share of the provisional words that the final text has",
        plain="how many of the provisional words stood",
    ),
    Metric(
        name="rtf", scope="transcription", source="voxd", label="rtf", buckets=_RATIO, unit="ratio",
        meaning="time spent computing ÷ audio; below 1 keeps up",
        plain="computing ÷ audio; below 1 keeps up",
        line="rtf", column="rtf", entry="rtf",
    ),
)  # fmt: skip
"""Every metric, in the order in which all lists show them.

`received` is `written to the socket` where voxd measures, and `captured` is `received`: it cannot see further."""

LABELS = {metric.name: metric.label for metric in METRICS}
OF_A_TURN = tuple(metric for metric in METRICS if metric.source != "screen")
SEVERAL = tuple(metric.name for metric in OF_A_TURN if metric.several)
VOXD_ONLY = tuple(metric.name for metric in METRICS if metric.source == "voxd")
"""What a client cannot measure: it takes these from `voxd.metrics`."""


def percentile(values: Sequence[float], q: float) -> float:
    """The q-th percentile (0..100), linear between closest ranks (Hyndman and Fan, type 7; numpy's default)."""
    if not values:
        raise ValueError("percentile of no values")
    ordered = sorted(values)
    place = (len(ordered) - 1) * q / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


class SampleClock:
    """Tells when a sample was captured (client) or received (server), from a bounded log of (position, time).

    Bound: `size` entries, 60 s of 20 ms packets by default; at the bound the oldest are forgotten.
    """

    def __init__(self, size: int = 3000) -> None:
        self._ends: deque[int] = deque(maxlen=size)
        self._times: deque[int] = deque(maxlen=size)

    def record(self, end: int, time_us: int) -> None:
        """Notes that the packet ending before sample `end` was complete at `time_us`; older ends are not changed."""
        if self._ends and end <= self._ends[-1]:
            return
        self._ends.append(end)
        self._times.append(time_us)

    def time_of(self, sample: int) -> int | None:
        """Time (us) of the packet that held the sample before position `sample`; None if unknown or forgotten.

        Inside a packet the time is interpolated backwards at the sample rate, so packetisation adds nothing."""
        at = bisect_left(self._ends, sample)
        if at == len(self._ends) or (at == 0 and sample <= self._ends[0] - RATE):
            return None
        return self._times[at] - (self._ends[at] - sample) * 1_000_000 // RATE


class VoicedTruth(Protocol):
    """Knows where speech really began and ended, as `shared.audio.Truth` does for a clip."""

    def first_voiced(self, after: int, before: int) -> int | None: ...
    def last_voiced(self, after: int, before: int) -> int | None: ...


@dataclass(slots=True)
class TurnMetrics:
    """One turn's values: a field for each metric of `OF_A_TURN`, in its unit.

    A metric that does not apply stays None and is left out of `as_dict`; it is never 0."""

    ttft_user_ms: float | None = None
    ttft_engine_ms: float | None = None
    ttft_server_ms: float | None = None
    endpoint_ms: float | None = None
    first_words_ms: float | None = None
    first_text_ms: float | None = None
    lag_over_delay_ms: float | None = None
    final_ms: float | None = None
    total_ms: float | None = None
    saved_ms: float | None = None
    stood: float | None = None
    rtf: float | None = None
    itl_ms: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, values: Mapping[str, float]) -> TurnMetrics:
        """The inverse of `as_dict`; names that are not in the table (a newer server's) are passed over."""
        return cls(**{name: values[name] for name in _SCALARS if name in values})  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, float]:
        """Name -> value of every metric that applies and is one number, in the order of the table."""
        pairs = ((name, getattr(self, name)) for name in _SCALARS)
        return {name: round(value, 2) for name, value in pairs if value is not None}


_SCALARS = tuple(metric.name for metric in OF_A_TURN if not metric.several)


def between_ms(start_us: int | None, end_us: int | None) -> float | None:
    """End - start in ms, never below 0 (speculation may finish before the commit); None if either is unknown."""
    if start_us is None or end_us is None:
        return None
    return max(0, end_us - start_us) / 1000


@dataclass(slots=True)
class TurnStamps:
    """Everything that is known about one turn's time.  Positions are samples at 16 kHz, times are us."""

    first_voiced: int | None = None
    last_voiced: int | None = None
    first_voiced_us: int | None = None
    last_voiced_us: int | None = None
    decided_us: int | None = None  # end of turn decided (server) or reported (client)
    commit_us: int | None = None  # the turn belongs to the model: commit or response.create
    first_words_us: int | None = None  # first transcription delta or provisional text written / received
    first_text_us: int | None = None  # first transcription delta written / received
    final_us: int | None = None  # final transcript written / received
    first_delta_us: int | None = None  # first response delta written / received
    last_delta_us: int | None = None
    deltas: int = 0
    gaps_ms: list[float] = field(default_factory=list)
    lags_ms: list[float] = field(default_factory=list)  # of transcription deltas behind their audio and its delay
    engine_commit_us: int | None = None
    engine_first_us: int | None = None
    compute_us: int = 0
    saved_us: int = 0  # by speculation
    audio_us: int = 0
    guesses: Guesses = field(default_factory=Guesses)

    def guess(self, now_us: int, text: str) -> bool:
        """Takes provisional text; returns whether these are the first words."""
        self.guesses.guess(text)
        first = self.first_words_us is None and bool(text.strip())
        if first:
            self.first_words_us = now_us
        return first

    def text(self, now_us: int, audio_us: int | None = None, delay_ms: int = 0) -> None:
        """Takes one transcription delta; `audio_us`: when the end of its audio was here, if that is known.

        Text after the end of the turn does not count as lag: `final_ms` measures it."""
        if self.first_text_us is None:
            self.first_text_us = now_us
            self.first_words_us = self.first_words_us or now_us
        if audio_us is not None and self.commit_us is None:
            self.lags_ms.append(max(0.0, (now_us - audio_us) / 1000 - delay_ms))

    def delta(self, now_us: int) -> None:
        """Takes one response delta."""
        if self.last_delta_us is None:
            self.first_delta_us = now_us
        else:
            self.gaps_ms.append((now_us - self.last_delta_us) / 1000)
        self.last_delta_us = now_us
        self.deltas += 1

    def metrics(self, *, user: bool) -> TurnMetrics:
        """Every metric that these stamps tell.  `user`: they were taken by the client, not by the server."""
        responded = self.first_delta_us is not None
        return TurnMetrics(
            ttft_user_ms=between_ms(self.last_voiced_us, self.first_delta_us) if user else None,
            ttft_server_ms=None if user else between_ms(self.commit_us, self.first_delta_us),
            ttft_engine_ms=between_ms(self.engine_commit_us, self.engine_first_us),
            endpoint_ms=between_ms(self.last_voiced_us, self.decided_us),
            first_words_ms=between_ms(self.first_voiced_us, self.first_words_us),
            first_text_ms=between_ms(self.first_voiced_us, self.first_text_us),
            lag_over_delay_ms=percentile(self.lags_ms, 50) if self.lags_ms else None,
            final_ms=between_ms(self.last_voiced_us, self.final_us),
            total_ms=between_ms(self.commit_us, self.last_delta_us) if responded else None,
            saved_ms=self.saved_us / 1000 if self.saved_us else None,
            stood=self.guesses.share() if self.final_us is not None else None,
            rtf=self.compute_us / self.audio_us if self.audio_us and self.compute_us else None,
            itl_ms=self.gaps_ms,
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """p50, p95, p99 and the worst of one metric over n turns; never a mean alone."""

    n: int
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Summarises these values.  Raises ValueError if there are none."""
        return cls(len(values), *(percentile(values, q) for q in (50, 95, 99, 100)))


def summarise(turns: Iterable[TurnMetrics]) -> dict[str, Summary]:
    """Metric name -> Summary, for the metrics that applied to at least one turn, in the order of the table."""
    values: dict[str, list[float]] = {}
    for turn in turns:
        for name, value in turn.as_dict().items():
            values.setdefault(name, []).append(value)
        for name in SEVERAL:
            if found := getattr(turn, name):
                values.setdefault(name, []).extend(found)
    return {metric.name: Summary.of(values[metric.name]) for metric in OF_A_TURN if metric.name in values}
