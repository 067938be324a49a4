"""voxtui.bench.plan, tally, goals and report: the timetable, its results, and the goals for them.  No clock."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from shared.audio import PACKET, RATE
from shared.events import (
    Error,
    ErrorBody,
    FailureBody,
    Metrics,
    OutputTextDelta,
    Response,
    ResponseCreated,
    ResponseDone,
    ServerEvent,
    SpeechStopped,
    TranscriptionFailed,
)
from shared.latency import SampleClock, TurnMetrics
from voxtui.bench.goals import Goal, GoalError, search
from voxtui.bench.plan import BenchPlan, ClipStart, Profile, timetable
from voxtui.bench.report import (
    Finding,
    comparison_text,
    judge,
    probe_line,
    progress_line,
    ratios,
    record,
    run_text,
    title,
)
from voxtui.bench.tally import Counts, Result, Tally, total
from voxtui.events import Measured, Relinked
from voxtui.session.meter import Meter, Report

SECOND = 1_000_000


# ── timetable ───────────────────────────────────────────────────────────────────────────────────────────────────────


def begins_s(profile: Profile) -> list[float]:
    """When the turns of four sessions of 2 + 1 turns begin, with 1.5 s of clip and 2.5 s of pause."""
    plan = BenchPlan(sessions=4, turns=2, warmup=1, pause_s=2.5, profile=profile)
    return [part.begin_us / SECOND for part in timetable(plan, [RATE * 3 // 2])]


def test_phases() -> None:
    """Strangers are spread over one turn of 4 s, a burst is one instant, a ramp takes one session of 12 s."""
    assert begins_s("constant") == [0, 1, 2, 3]
    assert begins_s("burst") == [0, 0, 0, 0]
    assert begins_s("ramp") == [0, 3, 6, 9]


def test_each_session_takes_the_clips_in_turn_and_begins_with_another_one() -> None:
    one, two = timetable(BenchPlan(sessions=2, turns=2, warmup=1, pause_s=1), [RATE, 2 * RATE])
    assert one.cues == (ClipStart(0, 0), ClipStart(2 * RATE, 1), ClipStart(5 * RATE, 0))
    assert two.cues == (ClipStart(0, 1), ClipStart(3 * RATE, 0), ClipStart(5 * RATE, 1))
    assert (one.measured, one.samples) == (2 * RATE, 6 * RATE)
    assert one.measured_us == 2 * SECOND


@given(
    st.integers(1, 9), st.integers(1, 5), st.integers(0, 2), st.lists(st.integers(1, 9 * RATE), min_size=1, max_size=4)
)
def test_no_clip_touches_the_next(sessions: int, turns: int, warmup: int, lengths: list[int]) -> None:
    """The pause between clips is whole, turns begin at packets, and all planned turns are there."""
    plan = BenchPlan(sessions=sessions, turns=turns, warmup=warmup, pause_s=1.0)
    for part in timetable(plan, lengths):
        assert len(part.cues) == turns + warmup
        for cue, following in zip(part.cues, part.cues[1:], strict=False):
            assert following.at - (cue.at + lengths[cue.clip]) >= RATE
        assert all(cue.at % PACKET == 0 for cue in part.cues)
        assert part.samples >= part.cues[-1].at + lengths[part.cues[-1].clip]


def test_speech_belongs_to_the_clip_in_which_or_after_which_it_ends() -> None:
    part = timetable(BenchPlan(turns=3, warmup=0, pause_s=1), [RATE])[0]
    ends_s = {0.1: 0, 1.6: 0, 2.0: 1, 3.9: 1, 4.5: 2, 60.0: 2}
    assert {end: part.turn(round(end * RATE)) for end in ends_s} == ends_s


# ── tally ───────────────────────────────────────────────────────────────────────────────────────────────────────────

PLAN = BenchPlan(turns=3, warmup=1, pause_s=1)


def tally(*events: object) -> Tally:
    """The tally of a session whose turns begin at 0, 2, 4 and 6 s; the first is warm-up."""
    found = Tally(timetable(PLAN, [RATE])[0], PLAN)
    for event in events:
        found.receive(event)  # type: ignore[arg-type]
    return found


def heard(key: str, end_ms: int, **metrics: float) -> tuple[object, object]:
    return SpeechStopped("", end_ms, key), Measured(key, TurnMetrics(**metrics), complete=True)


def answer(key: str, status: str) -> Response:
    return Response(key, status, None, (), None, "inf", None, None)  # type: ignore[arg-type]


def test_warm_up_is_not_measured() -> None:
    found = tally(*heard("a", 1500, final_ms=9000.0), *heard("b", 3500, final_ms=300.0)).result()
    assert [turn.final_ms for turn in found.turns] == [300.0]
    assert (found.counts.turns, found.counts.heard, found.counts.missed) == (3, 1, 2)


def test_two_utterances_in_one_clip_are_one_turn_with_two_measurements() -> None:
    found = tally(*heard("a", 2700, final_ms=1.0), *heard("b", 3500, final_ms=2.0)).result()
    assert (len(found.turns), found.counts.heard) == (2, 1)


def test_the_last_word_of_the_meter_counts() -> None:
    """The server's own part of a turn comes after its text."""
    stopped, first = heard("a", 3500, final_ms=300.0)
    second = Measured("a", TurnMetrics(final_ms=300.0, rtf=0.4), complete=True)
    assert [turn.rtf for turn in tally(stopped, first, second).result().turns] == [0.4]


def test_an_answer_belongs_to_the_turn_that_it_answers() -> None:
    """One that the next turn cut short has a beginning and no whole length."""
    measured = Measured("r", TurnMetrics(ttft_user_ms=500.0, total_ms=70.0), complete=True)
    done = ResponseDone("", answer("r", "cancelled"))
    said = SpeechStopped("", 3500, "a"), ResponseCreated("", answer("r", "in_progress"))
    found = tally(*said, done, measured).result()
    assert [turn.as_dict() for turn in found.turns] == [{"ttft_user_ms": 500.0}]
    assert (found.counts.heard, found.counts.interrupted) == (1, 1)
    warm_up = SpeechStopped("", 1500, "a"), ResponseCreated("", answer("r", "in_progress"))
    assert tally(*warm_up, measured).result().turns == []


def test_what_voxd_reports_of_measured_turns_lies_beside() -> None:
    """Not of warm-up; and one of an answer that was cut short has no whole length either."""
    clock, found = SampleClock(), tally()
    clock.record(8 * RATE, 8 * SECOND)
    found.meter = Meter(clock)

    def hear(event: ServerEvent) -> None:
        assert found.meter is not None
        measured = found.meter.receive(event, 4 * SECOND)
        for told in (event, *([measured] if measured else [])):
            found.receive(told)

    for key, end_ms, status in (("a", 1500, "completed"), ("b", 3500, "completed"), ("c", 5500, "cancelled")):
        hear(SpeechStopped("", end_ms, f"item {key}"))
        hear(ResponseCreated("", answer(key, "in_progress")))
        hear(OutputTextDelta("", key, "i", 0, 0, "x"))
        hear(ResponseDone("", answer(key, status)))
        said = {"endpoint_ms": float(end_ms), "total_ms": 90.0}
        hear(Metrics("", "response", f"item {key}", {}, said, {}, {}, 1.0, response_id=key))
    assert [report.voxd.as_dict() for report in found.result().reports] == [
        {"endpoint_ms": 3500.0, "total_ms": 90.0},
        {"endpoint_ms": 5500.0},
    ]


def test_what_went_wrong_is_counted_with_its_reason() -> None:
    broken = tally(
        TranscriptionFailed("", "a", 0, FailureBody("t", "c", "Engine lost.")),
        ResponseDone("", answer("r", "failed")),
        Error("", ErrorBody("t", "c", "Too much.", None, None)),
        Relinked(down_ms=200, tries=1, lost_ms=0, fresh=False),
    )
    broken.error("The connection was lost.")
    refused = tally()
    refused.refused("voxd is full.")
    found = total([broken, refused])
    assert found.counts == Counts(
        sessions=2, refused=1, turns=3, heard=0, missed=3, failed=2, interrupted=0, reconnects=1, errors=2
    )
    assert sum(found.reasons.values()) == 5
    assert {"Engine lost.", "Too much.", "voxd is full.", "The connection was lost."} < set(found.reasons)


# ── goals ───────────────────────────────────────────────────────────────────────────────────────────────────────────

FIGURES = Result(turns=[TurnMetrics(final_ms=float(value)) for value in range(100, 1100, 100)]).figures()


@pytest.mark.parametrize(
    ("text", "value", "passed"),
    [
        ("final_ms.p50<550.5", 550.0, True),
        ("final_ms.p50 < 550", 550.0, False),
        ("final_ms.p50<=550", 550.0, True),
        ("final_ms.max>999", 1000.0, True),
        ("final_ms.n==10", 10, True),
        ("final_ms.n>=11", 10, False),
        ("errors==0", 0, True),
        ("missed==1", 2, False),
        ("ttft_user_ms.p95<1000", None, False),
    ],
)
def test_goals(text: str, value: float | None, passed: bool) -> None:
    """A metric that was not measured reaches no goal, however easy."""
    verdict = Goal.parse(text).judge(FIGURES, Counts(missed=2))
    assert (verdict.value, verdict.passed) == (value, passed)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("fast", "final_ms.p95<900"),
        ("finale_ms.p95<900", "first_text_ms"),
        ("final_ms.p90<900", "n, p50, p95, p99, max"),
        ("final_ms<900", "final_ms.p95"),
        ("mistakes==0", "refused"),
    ],
)
def test_a_goal_that_means_nothing_is_told_what_is_right(text: str, right: str) -> None:
    with pytest.raises(GoalError, match=right):
        Goal.parse(text)


def probes(limit: int, passes: Callable[[int], bool]) -> tuple[list[int], int]:
    asked, found = [], search(limit)
    try:
        asked.append(next(found))
        while True:
            asked.append(found.send(passes(asked[-1])))
    except StopIteration as end:
        return asked, end.value


def test_a_search_doubles_and_then_halves() -> None:
    assert probes(64, lambda sessions: sessions <= 11) == ([1, 2, 4, 8, 16, 12, 10, 11], 11)


@given(st.integers(1, 200), st.integers(0, 300))
def test_a_search_finds_the_edge(limit: int, edge: int) -> None:
    """It needs few probes, and never goes beyond the limit."""
    asked, found = probes(limit, lambda sessions: sessions <= edge)
    assert found == min(edge, limit)
    assert max(asked) <= limit
    assert len(asked) == len(set(asked)) <= 17


# ── report ──────────────────────────────────────────────────────────────────────────────────────────────────────────

CLIPS = [("austen.flac", 11.8)]
HEAD = title(BenchPlan(sessions=4), CLIPS)


def finding(label: str, finals: list[float], *goals: str, late_ms: float = 0.5, **counts: int) -> Finding:
    turns = [TurnMetrics(endpoint_ms=value / 2, final_ms=value, rtf=0.5) for value in finals]
    booked = Counts(sessions=4, turns=3, heard=3 - counts.get("missed", 0), **counts)
    result = Result(booked, turns, late_ms=[late_ms] * 9, cpu_s={"bench": 1.0, "voxd": 2.5}, window_s=10.0)
    if booked.errors:
        result.reasons["The connection was lost."] = booked.errors
    status = {"version": "0.1.0", "engines": {"transcribe": "whisper", "respond": None}}
    return Finding(label, status, 4, result, judge([Goal.parse(goal) for goal in goals], result))


def test_the_page_of_a_run() -> None:
    found = finding(
        "unix:/a", [300.0, 400.0, 900.0], "final_ms.p50<500", "itl_ms.p95<20", "errors==0", missed=1, errors=2
    )
    assert (
        run_text(HEAD, found)
        == """\
unix:/a · voxd 0.1.0 · whisper
4 sessions × 10 turns, constant, transcribe · austen.flac, 11.8 s and 2.5 s of pause · 1 warm-up turn each

metric       n   p50   p95   p99   max
endpoint_ms  3   200   425   445   450
final_ms     3   400   850   890   900
rtf          3  0.50  0.50  0.50  0.50

turns    2 of 3 heard, 1 missed
trouble  2 errors
         2 × The connection was lost.
cpu      bench 0.10, voxd 0.25 cores
pace     packets 0.5 ms late at p99, 0.5 ms at most

reached  final_ms.p50<500  (final_ms.p50 400)
MISSED   itl_ms.p95<20  (itl_ms.p95 has no value)
MISSED   errors==0  (errors 2)"""
    )
    assert not found.passed


def counted(*pairs: tuple[float, float | None]) -> Finding:
    """`final_ms` as voxd says and as it was here; beside it a metric that only voxd knows."""
    reports = [Report(TurnMetrics(ttft_server_ms=40.0, final_ms=a), TurnMetrics(final_ms=b)) for a, b in pairs]
    return Finding("unix:/a", {}, 1, Result(Counts(turns=3, heard=3), [TurnMetrics(final_ms=250.0)], reports), ())


def test_the_page_shows_how_voxd_counts() -> None:
    """The difference is the median over the turns, not that of the medians."""
    assert run_text(HEAD, counted((300.0, 301.0), (400.0, 401.5), (500.0, 400.0))).split("\n\n")[2] == (
        """\
as voxd counts, from its own estimate of speech
metric          n  p50 voxd  p50 bench  p95 voxd  p95 bench  difference p50
ttft_server_ms  3        40          -        40          -               -
final_ms        3       400        400       490        401            +1.0"""
    )
    assert "as voxd counts" not in run_text(HEAD, finding("a", [300.0]))


def test_the_record_has_both_counts() -> None:
    whole = record("run", BenchPlan(), CLIPS, [counted((300.0, 302.0))], machine={}, started_at="now")
    found = json.loads(json.dumps(whole))["results"][0]["as_voxd_counts"]
    assert set(found["ttft_server_ms"]) == {"voxd"}
    assert (found["final_ms"]["voxd"]["p50"], found["final_ms"]["bench"]["p50"]) == (300.0, 302.0)
    assert found["final_ms"]["difference_p50"] == 2.0


def test_two_runs_are_counted_together() -> None:
    first = counted((300.0, 302.0)).result
    first.add(counted((300.0, 304.0)).result)
    assert first.compared()["final_ms"].difference == 3.0


def test_a_bench_that_is_late_says_so() -> None:
    prompt, late = (finding("a", [300.0], "final_ms.p50<500", late_ms=late) for late in (9.9, 10.1))
    assert "could not keep the pace" not in run_text(HEAD, prompt) + probe_line(prompt)
    assert "could not keep the pace" in run_text(HEAD, late)
    assert "could not keep the pace" in probe_line(late)


def test_two_beside_each_other() -> None:
    found = comparison_text(HEAD, finding("unix:/a", [400.0]), finding("ssh:b", [300.0, 300.0])).splitlines()
    assert found[:8] == [
        "A  unix:/a · voxd 0.1.0 · whisper",
        "B  ssh:b · voxd 0.1.0 · whisper",
        HEAD,
        "",
        "metric       n A  n B  p50 A  p50 B   B/A  p95 A  p95 B   B/A",
        "endpoint_ms    1    2    200    150  0.75    200    150  0.75",
        "final_ms       1    2    400    300  0.75    400    300  0.75",
        "rtf            1    2   0.50   0.50  1.00   0.50   0.50  1.00",
    ]
    assert ratios(finding("a", [400.0]), finding("b", [300.0]))["final_ms"] == {"p50": 0.75, "p95": 0.75}


def test_a_metric_that_only_one_has_has_no_ratio() -> None:
    silent = Finding("b", {}, 4, Result(), ())
    lines = comparison_text(HEAD, finding("a", [400.0]), silent).splitlines()
    assert ["final_ms", "1", "0", "400", "-", "-", "400", "-", "-"] in [line.split() for line in lines]


def test_lines_while_it_runs() -> None:
    result = finding("a", [402.0], errors=1).result
    assert progress_line(BenchPlan(sessions=4), result) == "3 of 40 turns · final p50 402 ms · 1 error"
    assert probe_line(finding("a", [402.0], "final_ms.p95<800")) == "  4 sessions   final_ms.p95 402   passes"
    refused = finding("a", [402.0], "final_ms.p95<800", refused=2)
    assert probe_line(refused) == "  4 sessions   final_ms.p95 402   fails: 2 refused sessions"


def test_the_record_is_json_and_says_where_it_was_made() -> None:
    found = finding("unix:/a", [300.0, 900.0], "final_ms.p50<500")
    machine = {"cpu": "x", "cores": 2}
    whole = json.loads(
        json.dumps(
            record(
                "run", BenchPlan(sessions=4), CLIPS, [found], machine=machine, started_at="2026-01-01T00:00:00+00:00"
            )
        )
    )
    assert (whole["bench"], whole["kind"], whole["machine"]) == (1, "run", machine)
    assert whole["plan"]["clips"] == [{"name": "austen.flac", "seconds": 11.8}]
    result = whole["results"][0]
    assert result["metrics"]["final_ms"] == {"n": 2, "p50": 600.0, "p95": 870.0, "p99": 894.0, "max": 900.0}
    assert (result["target"], result["voxd"], result["counts"]["heard"]) == ("unix:/a", "0.1.0", 3)
    assert result["goals"] == [{"goal": "final_ms.p50<500", "value": 600.0, "passed": False}]
    assert result["cpu"]["cores"] == {"bench": 0.1, "voxd": 0.25}
