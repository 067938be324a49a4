"""Every metric of the table reaches every place that shows metrics; documents and short lists name only those."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from textual.app import App

from shared import events
from shared.latency import METRICS, OF_A_TURN, VOXD_ONLY, Metric, SampleClock, TurnMetrics
from tests.support.fakes import utterance
from voxd.commands.logs import NUMBERS, parse
from voxd.telemetry.log import BreachLimiter, SessionLog
from voxd.telemetry.prometheus import Exposition, Live
from voxd.telemetry.turn_meter import Targets, TurnReport
from voxd.web.page_files import metrics_module
from voxtui.bench import goals, report as bench_report
from voxtui.screen.widgets import figures
from voxtui.screen.widgets.help import Definitions, HelpScreen
from voxtui.session.meter import Meter
from voxtui.settings import Targets as PersonsTargets

ROOT = Path(__file__).parents[2]
NAMES = [metric.name for metric in METRICS]
EACH = pytest.mark.parametrize("metric", OF_A_TURN, ids=lambda metric: metric.name)


def measured(metric: Metric, value: float = 12.0) -> TurnMetrics:
    return replace(TurnMetrics(), **{metric.name: [value] if metric.several else value})  # type: ignore[arg-type]


def reported(metric: Metric) -> TurnReport:
    return TurnReport(measured(metric), 1, None, 1000, None)


def test_the_table_is_well_formed() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert {metric.name for metric in OF_A_TURN} == {field.name for field in fields(TurnMetrics)}
    for metric in METRICS:
        assert all((metric.label, metric.meaning, metric.plain))
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert (metric.unit == "ms") == metric.name.endswith("_ms")


@EACH
def test_a_metric_is_a_field_of_the_log_and_can_be_filtered_by(
    metric: Metric, caplog: pytest.LogCaptureFixture
) -> None:
    if metric.several or metric.source == "client":
        assert metric.name not in NUMBERS, "the log has one number for a turn, and only voxd's own"
        return
    with caplog.at_level(logging.INFO, "voxd"):
        SessionLog("sess_x", Targets(), BreachLimiter()).turn(reported(metric), 0)
    assert caplog.records[0].__dict__["fields"][metric.name.upper()] == 12.0
    if metric.line:
        assert f"{metric.line} 12" in caplog.records[0].getMessage()
    assert parse(f"{metric.name}>10")


@EACH
def test_a_metric_is_counted_for_prometheus(metric: Metric) -> None:
    exposition = Exposition(Targets(), lambda: Live("ready"))
    exposition.written(events.TranscriptionCompleted("", "i", 0, "", {}), reported(metric))
    stem = f"voxd_{metric.name.removesuffix('_ms')}_{'seconds' if metric.unit == 'ms' else metric.unit}"
    found = {family.name: family for family in text_string_to_metric_families(exposition.page().decode())}[stem]
    value = next(sample.value for sample in found.samples if sample.name == f"{stem}_sum")
    assert value == pytest.approx(0.012 if metric.unit == "ms" else 12.0)
    assert found.documentation.lower() == metric.meaning.lower()


@pytest.mark.parametrize("name", VOXD_ONLY)
def test_what_only_voxd_can_measure_reaches_the_terminal(name: str) -> None:
    meter = Meter(SampleClock())
    for number, event in enumerate(utterance("u", 0, 1000, "Yes.", metrics=False)):
        meter.receive(event, number)
    derived = {} if name == "rtf" else {name: 41.5}
    rtf = 41.5 if name == "rtf" else events.UNSET
    event = events.Metrics("", "transcription", "u", {}, derived, {}, {}, 1.0, rtf=rtf)
    found = meter.receive(event, 9)
    assert found is not None
    assert found.metrics.as_dict()[name] == 41.5
    assert figures.summaries(meter.finished(), [])[name].p50 == 41.5


@EACH
def test_a_metric_can_be_a_goal_of_the_bench(metric: Metric) -> None:
    assert goals.Goal.parse(f"{metric.name}.p95<900").name == metric.name


def test_the_page_is_given_the_whole_table() -> None:
    rows = json.loads(metrics_module().split("=", 1)[1].strip().removesuffix(";"))
    assert [row["name"] for row in rows] == NAMES
    assert {row["name"] for row in rows if row["source"] == "voxd"} == set(VOXD_ONLY)


async def test_the_help_of_the_screen_explains_all() -> None:
    app: App[None] = App()
    async with app.run_test(size=(100, 80)) as pilot:
        await app.push_screen(HelpScreen())
        await pilot.pause()
        shown = str(app.screen.query(Definitions).last().render())
    assert [metric.label for metric in METRICS if metric.label not in shown] == []


def test_the_readme_has_the_table() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `[a-z_]+` \| (?:both|response|transcription) \|.*$", readme, re.MULTILINE)
    assert rows == [f"| `{each.name}` | {each.scope} | {each.meaning} |" for each in METRICS]


def test_short_lists_choose_from_the_table() -> None:
    chosen = {*figures.CONVERSING, *figures.TRANSCRIBING, *bench_report.HEADLINE.values()}
    chosen |= {name for names in bench_report.SHOWN.values() for name in names}
    chosen |= {field.name for field in fields(Targets)} | set(PersonsTargets.__struct_fields__)
    assert chosen <= set(NAMES)


@pytest.mark.parametrize("path", ["voxd/web/page/view.js", "voxd/web/page/meter.js", "voxd/web/page/index.html"])
def test_the_page_names_only_metrics_of_the_table(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    settings = {"prefix_padding_ms", "silence_duration_ms", "delay_ms", "audio_start_ms", "audio_end_ms"}
    settings |= {"voxd_audio_ms", "derived_ms"}
    assert set(re.findall(r"\b[a-z_]+_ms\b", text)) - settings <= set(NAMES)
