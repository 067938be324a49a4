"""The page `/metrics` in the text format of Prometheus: counters and histograms so far, and the state of the daemon.
Beside steps 4 to 11 of a packet's path.

It knows names and units; not sessions or sockets.  Connections report what happens, and `live` is called for the
current state whenever the page is read.  Latencies are those of the table in `shared.latency`, in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shared import __version__, events
from shared.audio import RATE
from shared.latency import OF_A_TURN, SEVERAL, Metric as Latency
from voxd.messages import Beat
from voxd.telemetry import journald
from voxd.telemetry.turn_meter import Targets, TurnReport

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
KINDS = ("realtime", "transcription", "rest")
TOKENS = ("input", "cached", "output")
STATES = ("loading", "ready", "restarting", "failed", "stopped", "draining")


class EngineHealth(NamedTuple):
    """The last heartbeat of the engine process, and its age in seconds."""

    beat: Beat
    age_s: float


@dataclass(frozen=True, slots=True)
class Live:
    """The state of the daemon now."""

    state: str
    sessions: Mapping[str, int] = field(default_factory=dict)  # by kind
    limit: int = 0
    restarts: int = 0
    engine: EngineHealth | None = None  # None: no heartbeat has come yet


class Exposition:
    """Everything that is counted, in a registry of its own."""

    def __init__(self, targets: Targets, live: Callable[[], Live]) -> None:
        self._targets = targets
        # Otherwise every series would have a second one, with the time at which it began.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        self._connections = Counter(
            "voxd_connections", "Sessions that were begun, by transport", ["transport"], registry=registry
        )
        self._refusals = Counter("voxd_refusals", "Clients sent away, by reason", ["reason"], registry=registry)
        self._audio = Counter(
            "voxd_audio_received", "Audio received, with the silence put after files", unit="seconds", registry=registry
        )
        self._turns = Counter("voxd_turns", "Turns that ended, and how", ["scope", "ending"], registry=registry)
        self._breaches = Counter("voxd_breaches", "Responses over their target", ["metric"], registry=registry)
        self._speculations = Counter("voxd_speculations", "Answers begun before they were asked for", registry=registry)
        self._slow = Counter(
            "voxd_machine_too_slow", "Sessions told that this machine is too slow for live text", registry=registry
        )
        self._tokens = Counter(
            "voxd_tokens", "Tokens of turns, read, read from a cache, and said", ["kind"], registry=registry
        )
        for transport in ("websocket", "webrtc", "http"):
            self._connections.labels(transport)
        for kind in TOKENS:
            self._tokens.labels(kind)
        for metric in ("ttft_engine_ms", "ttft_server_ms", "total_ms"):
            self._breaches.labels(metric)
        self._latencies = {metric.name: _histogram(metric, registry) for metric in OF_A_TURN}
        registry.register(_Collector(live))

    def page(self) -> bytes:
        return generate_latest(self._registry)

    # ── what happens ────────────────────────────────────────────────────────────────────────────────────────────────

    def connected(self, transport: str) -> None:
        self._connections.labels(transport).inc()

    def refused(self, reason: str) -> None:
        self._refusals.labels(reason).inc()

    def received(self, samples: int) -> None:
        """Audio came from a client: so many more samples at 16 kHz."""
        self._audio.inc(samples / RATE)

    def speculated(self) -> None:
        self._speculations.inc()

    def warned(self, code: str) -> None:
        """An engine has warned a session."""
        if code == "machine_too_slow":
            self._slow.inc()

    def written(self, event: events.ServerEvent, report: TurnReport | None) -> None:
        """An event was written to a client; `report` is there if a turn ended with it."""
        self.count(event)
        if report:
            self._measure(report, "response" if isinstance(event, events.ResponseDone) else "transcription")

    def count(self, event: events.ServerEvent) -> None:
        """Counts an event without any of its times."""
        match event:
            case events.TranscriptionCompleted():
                self._turns.labels("transcription", "completed").inc()
            case events.TranscriptionFailed():
                self._turns.labels("transcription", "failed").inc()
            case events.ResponseDone():
                self._turns.labels("response", event.response.status).inc()
            case events.Error(error=error) if error.code == "server_overloaded":
                self.refused(error.code)

    def load(self, rtf: float) -> None:
        """Records the compute over audio of a turn of a file."""
        self._latencies["rtf"].labels("file").observe(rtf)

    def _measure(self, report: TurnReport, scope: str) -> None:
        for name, value in report.metrics.as_dict().items():
            self._observe(name, scope, value)
        for name in SEVERAL:
            for value in getattr(report.metrics, name):
                self._observe(name, scope, value)
        for kind, count in (report.event.tokens if report.event else {}).items():
            self._tokens.labels(kind).inc(count)
        for metric in self._targets.breaches(report.metrics):
            self._breaches.labels(metric).inc()

    def _observe(self, name: str, scope: str, value: float) -> None:
        """`value`: in the unit of the table; times are kept in seconds, as readers of Prometheus expect."""
        self._latencies[name].labels(scope).observe(value / 1000 if name.endswith("_ms") else value)


class FileObserver:
    """The observer of sessions for files: their audio comes faster than it was spoken, so latencies mean nothing."""

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition

    def received(self, samples: int) -> None:
        self._exposition.received(samples)

    def speculated(self) -> None:
        """Nothing to count: files are transcribed, not answered."""

    def warned(self, code: str) -> None:
        """Nothing to count: a file has no live text."""

    def written(self, event: events.ServerEvent, report: TurnReport | None) -> None:
        self._exposition.count(event)
        if report and report.metrics.rtf is not None:
            self._exposition.load(report.metrics.rtf)


def _histogram(metric: Latency, registry: CollectorRegistry) -> Histogram:
    """`final_ms` -> `voxd_final_seconds`, `rtf` -> `voxd_rtf_ratio`."""
    timed = metric.unit == "ms"
    return Histogram(
        f"voxd_{metric.name.removesuffix('_ms')}",
        f"{metric.meaning[0].upper()}{metric.meaning[1:]}",
        ["scope"],
        unit="seconds" if timed else metric.unit,
        buckets=[bound / 1000 for bound in metric.buckets] if timed else metric.buckets,
        registry=registry,
    )


class _Collector(Collector):
    """Reads the current state each time the page is read, so that no value can be out of date."""

    def __init__(self, live: Callable[[], Live]) -> None:
        self._live = live

    def collect(self) -> Iterable[Metric]:
        live = self._live()
        yield _labelled("voxd_build_info", "Which voxd this is", "version", {__version__: 1})
        yield _labelled(
            "voxd_sessions", "Live sessions, by kind", "kind", dict.fromkeys(KINDS, 0) | dict(live.sessions)
        )
        yield GaugeMetricFamily("voxd_slots_taken", "Slots taken by sessions", value=sum(live.sessions.values()))
        yield GaugeMetricFamily("voxd_slots_limit", "Slots there are (server.max_sessions)", value=live.limit)
        states = {state: int(state == live.state) for state in STATES}
        yield _labelled("voxd_state", "1 for the state that voxd is in", "state", states)
        yield CounterMetricFamily("voxd_engine_restarts", "Engine processes lost", value=live.restarts)
        yield CounterMetricFamily("voxd_log_dropped", "Records that journald did not take", value=journald.dropped())
        if live.engine:
            yield from _engine(live.engine)


def _engine(engine: EngineHealth) -> Iterable[Metric]:
    """Totals start from zero with every engine process; Prometheus handles such resets of counters."""
    beat = engine.beat
    lag, age = beat.lag_samples / RATE, max(0.0, engine.age_s)
    yield GaugeMetricFamily("voxd_engine_streams", "Streams open in the engine process", value=beat.streams)
    yield GaugeMetricFamily("voxd_engine_lag_seconds", "Audio received and not heard, worst stream", value=lag)
    yield GaugeMetricFamily("voxd_engine_heartbeat_age_seconds", "Since the engine process last spoke", value=age)
    spent = {"vad": beat.vad_us / 1e6, "engine": beat.step_us / 1e6}
    yield _labelled(
        "voxd_engine_loop_seconds", "Time of the engine's loop, by what was done", "part", spent, total=True
    )
    yield CounterMetricFamily("voxd_vad_batches", "Calls of the network for voice activity", value=beat.batches)
    yield CounterMetricFamily("voxd_vad_rows", "Frames of 32 ms scored in them", value=beat.rows)


def _labelled(name: str, about: str, label: str, values: Mapping[str, float], *, total: bool = False) -> Metric:
    family = (
        CounterMetricFamily(name, about, labels=[label]) if total else GaugeMetricFamily(name, about, labels=[label])
    )
    for value, amount in values.items():
        family.add_metric([value], amount)
    return family
