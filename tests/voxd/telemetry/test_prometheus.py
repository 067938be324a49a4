"""`/metrics` is well formed for readers of Prometheus, and its numbers are true."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from shared.audio import RATE
from shared.events import Error as ErrorEvent, ErrorBody, FailureBody, TranscriptionCompleted, TranscriptionFailed
from shared.latency import OF_A_TURN, TurnMetrics
from tests.support.daemon import Daemon, voxd_process
from tests.support.speech import FOLDER
from tests.voxd.test_server import SILENCE, SPEECH, talk
from voxd.messages import Beat
from voxd.telemetry.prometheus import EngineHealth, Exposition, FileObserver, Live
from voxd.telemetry.turn_meter import Targets, TurnReport

LIVE = Live(
    "ready", {"realtime": 2, "rest": 1}, 64, 3, EngineHealth(Beat(0, 3, 8000, 10, 40, 1_500_000, 250_000), 0.25)
)
COMPLETED = TranscriptionCompleted("", "item", 0, "words", {})
FAILED = TranscriptionFailed("", "item", 0, FailureBody("server_error", "engine_lost", ""))


def report(**words: float) -> TurnReport:
    return TurnReport(TurnMetrics(**words), 0, None, 1000, None)


def families(page: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(page)}


def value(page: str, name: str, **labels: str) -> float | None:
    """The value of a series; None if there is no such series."""
    samples = (sample for family in families(page).values() for sample in family.samples)
    return next((s.value for s in samples if s.name == name and s.labels.items() >= labels.items()), None)


def faults(page: str) -> Iterator[str]:
    """The faults that a linter of this format would report."""
    told = [line.split(" ", 3)[1:3] for line in page.splitlines() if line.startswith("#")]
    for kind in ("HELP", "TYPE"):
        names = [name for found, name in told if found == kind]
        if len(names) != len(set(names)):
            yield f"{kind} twice"
    if {name for kind, name in told if kind == "HELP"} != {name for kind, name in told if kind == "TYPE"}:
        yield "HELP without TYPE, or the other way round"
    for family in families(page).values():
        if not family.name.startswith("voxd_") or not family.documentation:
            yield f"{family.name}: prefix or help"
        if family.type == "unknown" or {"ms", "us", "milliseconds", "samples"} & set(family.name.split("_")):
            yield f"{family.name}: no type, or no base unit"
        for sample in family.samples:
            if (family.type == "counter") != sample.name.endswith("_total"):
                yield f"{sample.name}: only counters end in _total"
        if family.type == "histogram":
            yield from unsound(family)


def unsound(family: Metric) -> Iterator[str]:
    """The histograms whose buckets do not grow, do not end with +Inf, or do not end at the count."""
    buckets = defaultdict[str, list[tuple[float, float]]](list)
    counts = dict[str, float]()
    for sample in family.samples:
        if sample.name.endswith("_bucket"):
            buckets[sample.labels["scope"]].append((float(sample.labels["le"]), sample.value))
        elif sample.name.endswith("_count"):
            counts[sample.labels["scope"]] = sample.value
    for scope, found in buckets.items():
        if any(a >= b or n > m for (a, n), (b, m) in pairwise(found)):
            yield f"{family.name}{{{scope}}}: buckets are not cumulative"
        if found[-1] != (float("inf"), counts[scope]):
            yield f"{family.name}{{{scope}}}: +Inf is not the count"


def exposition() -> Exposition:
    return Exposition(Targets(), lambda: LIVE)


def test_the_page_is_well_formed_before_and_after_turns() -> None:
    all_words = {metric.name: 12.5 for metric in OF_A_TURN if not metric.several}
    counted = exposition()
    assert list(faults(counted.page().decode())) == []
    counted.written(COMPLETED, report(**all_words))
    counted.refused('a "reason"\nof two lines')
    page = counted.page().decode()
    assert list(faults(page)) == []
    assert {f"voxd_{name.removesuffix('_ms')}" for name in all_words} <= {
        family.name.removesuffix("_seconds").removesuffix("_ratio") for family in families(page).values()
    }


def test_times_are_seconds_and_fall_into_their_buckets() -> None:
    counted = exposition()
    counted.written(COMPLETED, report(final_ms=480.0, rtf=0.25))
    page = counted.page().decode()
    assert value(page, "voxd_final_seconds_sum", scope="transcription") == pytest.approx(0.48)
    assert value(page, "voxd_final_seconds_bucket", le="0.4") == 0
    assert value(page, "voxd_final_seconds_bucket", le="0.5") == 1
    assert value(page, "voxd_rtf_ratio_sum", scope="transcription") == 0.25
    assert value(page, "voxd_ttft_server_seconds_count", scope="transcription") is None, "what does not apply is absent"


def test_files_have_load_but_no_times() -> None:
    counted = exposition()
    FileObserver(counted).written(COMPLETED, report(final_ms=1.0, rtf=0.25))
    page = counted.page().decode()
    assert value(page, "voxd_turns_total", scope="transcription", ending="completed") == 1
    assert value(page, "voxd_rtf_ratio_count", scope="file") == 1
    assert value(page, "voxd_final_seconds_count") is None


def test_endings_refusals_and_breaches_are_counted() -> None:
    counted = exposition()
    counted.written(FAILED, None)
    counted.written(ErrorEvent("", ErrorBody("server_error", "server_overloaded", "full", None, None)), None)
    counted.written(ErrorEvent("", ErrorBody("invalid_request_error", "invalid_value", "", None, None)), None)
    counted.written(COMPLETED, report(ttft_server_ms=250.0, total_ms=900.0))
    page = counted.page().decode()
    assert value(page, "voxd_turns_total", ending="failed") == 1
    assert value(page, "voxd_refusals_total", reason="server_overloaded") == 1
    assert value(page, "voxd_refusals_total", reason="invalid_value") is None
    assert value(page, "voxd_breaches_total", metric="ttft_server_ms") == 1
    assert value(page, "voxd_breaches_total", metric="total_ms") == 0


def test_how_things_are_now() -> None:
    page = exposition().page().decode()
    kinds = {kind: value(page, "voxd_sessions", kind=kind) for kind in ("realtime", "transcription", "rest")}
    assert kinds == {"realtime": 2, "transcription": 0, "rest": 1}
    assert value(page, "voxd_slots_taken") == 3
    assert value(page, "voxd_slots_limit") == 64
    assert value(page, "voxd_state", state="ready") == 1
    assert value(page, "voxd_state", state="loading") == 0
    assert value(page, "voxd_engine_restarts_total") == 3
    assert value(page, "voxd_engine_lag_seconds") == 0.5
    assert value(page, "voxd_engine_heartbeat_age_seconds") == 0.25
    assert value(page, "voxd_vad_rows_total") == 40
    assert value(page, "voxd_engine_loop_seconds_total", part="vad") == 1.5
    assert value(page, "voxd_log_dropped_total") == 0
    silent = Exposition(Targets(), lambda: Live("loading")).page().decode()
    assert value(silent, "voxd_engine_lag_seconds") is None, "nothing is told that is not known"


# ── real processes ──────────────────────────────────────────────────────────────────────────────────────────────────


async def scrape(daemon: Daemon) -> str:
    transport = httpx.AsyncHTTPTransport(uds=str(daemon.socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        answer = await http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert list(faults(answer.text)) == []
    return answer.text


async def becomes(daemon: Daemon, wanted: float, name: str, **labels: str) -> None:
    async with asyncio.timeout(60):
        while value(await scrape(daemon), name, **labels) != wanted:
            pass


async def test_the_numbers_are_those_of_the_turns_made() -> None:
    environ = {"VOXD_SERVER_MAX_SESSIONS": "1", "VOXD_ENGINE_OPTIONS": "{echo: {tokens: 40, token_ms: 5}}"}
    with voxd_process("--transcribe", "echo", "--respond", "echo", env=environ) as daemon:
        async with talk(daemon) as person:
            await person.speak(SPEECH + SILENCE)
            await person.until("response.done")
            page = await scrape(daemon)
            assert value(page, "voxd_sessions", kind="realtime") == 1
            assert (await transcribe(daemon)).status_code == 503
        await becomes(daemon, 0, "voxd_slots_taken")
        assert (await transcribe(daemon)).status_code == 200
        page = await scrape(daemon)

    assert value(page, "voxd_connections_total", transport="websocket") == 1
    assert value(page, "voxd_connections_total", transport="http") == 1
    assert value(page, "voxd_refusals_total", reason="session_limit_reached") == 1
    assert value(page, "voxd_turns_total", scope="response", ending="completed") == 1
    assert value(page, "voxd_turns_total", scope="transcription", ending="completed") == 2
    assert value(page, "voxd_ttft_server_seconds_count", scope="response") == 1
    assert value(page, "voxd_itl_seconds_count", scope="response") == 39, "echo says 40 tokens"
    assert value(page, "voxd_tokens_total", kind="output") == 40
    assert value(page, "voxd_final_seconds_count", scope="transcription") == 1
    spoken = len(SPEECH + SILENCE) / 2 / RATE
    heard = value(page, "voxd_audio_received_seconds_total")
    assert heard is not None
    assert spoken + len(SPEECH) / 2 / RATE < heard < 2 * spoken + 1


async def test_batches_of_the_engine_process_are_told_by_its_heartbeat() -> None:
    with voxd_process("--transcribe", "echo") as daemon:
        assert (await transcribe(daemon)).status_code == 200
        frames = (len(SPEECH) // 2 + int(1.5 * RATE)) // 512
        await becomes(daemon, frames, "voxd_vad_rows_total")
        page = await scrape(daemon)
        batches = value(page, "voxd_vad_batches_total")
        assert batches is not None
        assert 0 < batches <= frames
        assert 0 < (value(page, "voxd_engine_loop_seconds_total", part="vad") or 0) < 5


async def test_a_lost_engine_process_is_counted() -> None:
    with voxd_process("--transcribe", "echo") as daemon:
        await becomes(daemon, 1, "voxd_state", state="ready")
        os.kill(int(str((await asyncio.to_thread(daemon.status))["engine_pid"])), signal.SIGKILL)
        await becomes(daemon, 1, "voxd_engine_restarts_total")
        await becomes(daemon, 1, "voxd_state", state="ready")


async def transcribe(daemon: Daemon) -> httpx.Response:
    transport = httpx.AsyncHTTPTransport(uds=str(daemon.socket))
    file = (FOLDER / "librivox_austen_0880.flac").read_bytes()
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=300) as http:
        return await http.post("/v1/audio/transcriptions", files={"file": ("a.flac", file)})
