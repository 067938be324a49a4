"""What "fast" means: the one definition of every latency word, for journal, metrics page, screen and bench.

Pure: times come in as integer microseconds of one process's monotonic clock; nothing here reads a clock.  It knows no
wire events, so both ends of the wire use it: the server with arrival and write times (`voxd.metrics`), the client with
capture and receive times (`voxtui.session.meter`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol

from shared.audio import RATE


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
    """When was sample n captured (client) or received (server)?  A bounded log of (position, time).

    Bound: `size` entries, 60 s of 20 ms packets by default; at the bound the oldest are forgotten.
    """

    def __init__(self, size: int = 3000) -> None:
        self._ends: deque[int] = deque(maxlen=size)
        self._times: deque[int] = deque(maxlen=size)

    def record(self, end: int, time_us: int) -> None:
        """The packet whose last sample is `end - 1` was complete at `time_us`; what was complete before stays so."""
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
    """Who says where speech really began and ended: `shared.audio.Truth` offline, else nobody (the VAD's estimate)."""

    def first_voiced(self, after: int, before: int) -> int | None: ...
    def last_voiced(self, after: int, before: int) -> int | None: ...


@dataclass(slots=True)
class TurnMetrics:
    """The metrics of one turn, ms (`rtf` is a ratio).  What does not apply stays None and is left out of `as_dict`."""

    ttft_user_ms: float | None = None
    ttft_server_ms: float | None = None
    ttft_engine_ms: float | None = None
    endpoint_ms: float | None = None
    first_text_ms: float | None = None
    lag_over_delay_ms: float | None = None
    final_ms: float | None = None
    total_ms: float | None = None
    saved_ms: float | None = None
    rtf: float | None = None
    itl_ms: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, values: Mapping[str, float]) -> TurnMetrics:
        """What `as_dict` gave, back again; words that are not in the glossary are passed over."""
        scalar = {f.name for f in fields(cls)} - {"itl_ms"}
        return cls(**{name: value for name, value in values.items() if name in scalar})  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, float]:
        """Scalar metrics that apply, in the order of the glossary."""
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self) if f.name != "itl_ms")
        return {name: round(value, 2) for name, value in pairs if value is not None}


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
    decided_us: int | None = None  # end of turn decided (server) or heard of (client)
    commit_us: int | None = None  # the turn belongs to the model: commit or response.create
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

    def text(self, now_us: int, audio_us: int | None = None, delay_ms: int = 0) -> None:
        """One transcription delta; `audio_us`: when the end of its audio was here, if that is known.

        What comes after the end of the turn trails nothing: that is `final_ms`."""
        if self.first_text_us is None:
            self.first_text_us = now_us
        if audio_us is not None and self.commit_us is None:
            self.lags_ms.append(max(0.0, (now_us - audio_us) / 1000 - delay_ms))

    def delta(self, now_us: int) -> None:
        """One response delta."""
        if self.last_delta_us is None:
            self.first_delta_us = now_us
        else:
            self.gaps_ms.append((now_us - self.last_delta_us) / 1000)
        self.last_delta_us = now_us
        self.deltas += 1

    def metrics(self, *, user: bool) -> TurnMetrics:
        """The words of the glossary.  `user`: these stamps were taken where the person sits, not at the server."""
        responded = self.first_delta_us is not None
        return TurnMetrics(
            ttft_user_ms=between_ms(self.last_voiced_us, self.first_delta_us) if user else None,
            ttft_server_ms=None if user else between_ms(self.commit_us, self.first_delta_us),
            ttft_engine_ms=between_ms(self.engine_commit_us, self.engine_first_us),
            endpoint_ms=between_ms(self.last_voiced_us, self.decided_us),
            first_text_ms=between_ms(self.first_voiced_us, self.first_text_us),
            lag_over_delay_ms=percentile(self.lags_ms, 50) if self.lags_ms else None,
            final_ms=between_ms(self.last_voiced_us, self.final_us),
            total_ms=between_ms(self.commit_us, self.last_delta_us) if responded else None,
            saved_ms=self.saved_us / 1000 if self.saved_us else None,
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
        """Raises ValueError if there is none."""
        return cls(len(values), *(percentile(values, q) for q in (50, 95, 99, 100)))


def summarise(turns: Iterable[TurnMetrics]) -> dict[str, Summary]:
    """Metric name -> Summary, for the metrics that applied to at least one turn, in the order of the glossary."""
    values: dict[str, list[float]] = {}
    for turn in turns:
        for name, value in turn.as_dict().items():
            values.setdefault(name, []).append(value)
        if turn.itl_ms:
            values.setdefault("itl_ms", []).extend(turn.itl_ms)
    return {f.name: Summary.of(values[f.name]) for f in fields(TurnMetrics) if f.name in values}
