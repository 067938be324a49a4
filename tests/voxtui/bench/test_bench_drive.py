"""voxtui.bench.drive, machine and command: a plan is played on its own clock, and its results are booked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from shared.audio import PACKET, RATE, Float32, Truth, float_to_pcm16
from shared.latency import TurnMetrics
from tests.support.daemon import voxd_process
from tests.support.fakes import FakeClock, FakeVoxd, Step, refusal, utterance
from tests.support.speech import FOLDER
from voxtui.bench import command, drive
from voxtui.bench.command import Bench, ProgressLine, session
from voxtui.bench.drive import Clip, Drive, Track, TrackTruth, load_clips
from voxtui.bench.goals import Goal
from voxtui.bench.machine import cpu_s, local_processes, machine
from voxtui.bench.plan import BenchPlan, Part, timetable
from voxtui.bench.tally import Counts, Result
from voxtui.capture.sources import Packet
from voxtui.errors import Misconfigured, SourceError, TokenRefused
from voxtui.link.target import Address, Direct, Target, unix_target
from voxtui.session import run as runner


def tone(seconds: float, level: float = 0.5) -> Float32:
    return (level * np.sin(np.arange(round(seconds * RATE)) / 3)).astype(np.float32)


def clip(seconds: float, level: float = 0.5) -> Clip:
    samples = tone(seconds, level)
    return Clip("tone", float_to_pcm16(samples), Truth(samples))


CLIPS = [clip(1.0), clip(0.5, level=0.005)]
PLAN = BenchPlan(turns=2, warmup=1, pause_s=1.0)
PART: Part = timetable(PLAN, [found.samples for found in CLIPS])[0]  # 1 s, 0.5 s, 1 s at 0 s, 2 s, 3.5 s


# ── one session's sound ─────────────────────────────────────────────────────────────────────────────────────────────


async def take(track: Track, seconds: float) -> list[Packet]:
    found: list[Packet] = []
    async for packet in track.packets():
        found.append(packet)
        if packet.end >= seconds * RATE:
            break
    return found


async def test_clips_lie_at_their_places_in_silence() -> None:
    packets = await take(Track(PART, CLIPS, 0, FakeClock(), lambda ms: None), 5.0)
    quiet = bytes(2 * RATE)
    expected = CLIPS[0].pcm + quiet + CLIPS[1].pcm + quiet + CLIPS[0].pcm + quiet
    assert b"".join(packet.pcm for packet in packets) == expected[: 2 * 5 * RATE]
    assert {len(packet.pcm) for packet in packets} == {2 * PACKET}


async def test_a_packet_is_due_at_its_time_whatever_became_of_those_before() -> None:
    """A slow taker makes one packet late, which is told, and delays none of those that follow."""
    clock, late = FakeClock(500_000), list[float]()
    due = []
    async for packet in Track(PART, CLIPS, 1_000_000, clock, late.append).packets():
        due.append(packet.captured_us)
        if packet.end == PART.measured + 5 * PACKET:
            clock.time_us += 50_000
        if packet.end == PART.samples + PACKET:
            break
    assert due == [1_000_000 + 20_000 * number for number in range(1, len(due) + 1)]
    assert [ms for ms in late if ms] == [30.0, 10.0]
    assert len(late) == (PART.samples - PART.measured) // PACKET  # neither warm-up nor what follows the last clip


def test_truth_is_that_of_each_clip_at_its_place() -> None:
    """A clip that is 40 dB softer than the other is speech all the same."""
    truth = TrackTruth(PART, CLIPS)
    assert truth.first_voiced(RATE, 9 * RATE) == 2 * RATE
    assert truth.last_voiced(RATE, 3 * RATE) == 5 * RATE // 2
    assert truth.last_voiced(0, 9 * RATE) == PART.samples
    assert truth.first_voiced(RATE, 2 * RATE) is truth.last_voiced(RATE, 2 * RATE) is None


def test_clips_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.wav", "a.flac", "c.wav"):
        soundfile.write(tmp_path / name, tone(0.1), RATE)
    (tmp_path / "a.txt").write_text("not a sound")
    assert [found.name for found in load_clips(tmp_path, 2)] == ["a.flac", "b.wav"]
    assert [found.samples for found in load_clips(tmp_path / "c.wav", 9)] == [1600]


def test_what_cannot_be_benched_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no sound file"):
        load_clips(tmp_path, 9)
    soundfile.write(tmp_path / "quiet.wav", np.zeros(RATE, np.float32), RATE)
    with pytest.raises(SourceError, match="nobody speaks"):
        load_clips(tmp_path, 9)


# ── one run ─────────────────────────────────────────────────────────────────────────────────────────────────────────

SAID: list[Step] = [
    (1600, utterance("a", 0, 1500, "warm-up")),
    (3000, utterance("b", 2000, 2980, "heard")),
]


async def played(voxd: FakeVoxd, plan: BenchPlan = PLAN) -> Result:
    async with voxd.serve() as target:
        route = Direct(target, None)
        return await Drive(plan, CLIPS, lambda: session(route, plan, lambda line: None), clock=FakeClock()).run()


async def test_turns_are_measured_or_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is warm-up, the second is heard, and of the third nothing comes."""
    monkeypatch.setattr(runner, "QUIET_S", 0.05)
    found = await played(FakeVoxd(SAID))
    assert found.counts == Counts(sessions=1, turns=2, heard=1, missed=1)
    assert [turn.rtf for turn in found.turns] == [0.25]
    assert found.window_s > 0
    assert "bench" in found.cpu_s


async def test_a_session_that_breaks_is_an_error_and_its_turns_are_missed() -> None:
    found = await played(FakeVoxd(SAID, close=1008))
    assert (found.counts.errors, found.counts.heard, found.counts.missed) == (1, 1, 1)
    assert any("too slow" in reason for reason in found.reasons)


async def test_a_turn_that_never_ends_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "GRACE_S", 0.3 - PART.samples / RATE)
    found = await played(FakeVoxd([*SAID, (4000, utterance("c", 3500, 4000, "x")[:2])]))
    assert (found.counts.errors, found.counts.heard) == (1, 1)
    assert any("not finished" in reason for reason in found.reasons)


@pytest.mark.parametrize("profile", ["constant", "ramp"])
async def test_when_nobody_is_let_in_the_reason_is_the_answer(profile: Any) -> None:
    with pytest.raises(TokenRefused, match="refuses the token"):
        await played(FakeVoxd(refuse=(401, refusal("No."))), BenchPlan(sessions=3, turns=1, profile=profile))


@pytest.mark.parametrize(("mode", "word"), [("converse", "--respond"), ("transcribe", "--transcribe")])
async def test_a_voxd_that_cannot_do_it(mode: Any, word: str) -> None:
    voxd = FakeVoxd(respond=None if mode == "converse" else "fake", transcribe=None)
    with pytest.raises(Misconfigured, match=word):
        await played(voxd, BenchPlan(turns=1, mode=mode))


# ── the whole, against a daemon ─────────────────────────────────────────────────────────────────────────────────────


async def test_three_sessions_of_which_two_find_a_place() -> None:
    """Real time, real VAD, the engine that says a word per 320 ms.  The third is counted; the two are measured."""
    plan = BenchPlan(sessions=3, turns=1, warmup=0, pause_s=1.0, profile="burst")
    goals = [Goal.parse(text) for text in ("refused==1", "errors==0", "missed==0", "final_ms.n>=2", "late_ms.n>=1")]
    with voxd_process("--transcribe", "echo", env={"VOXD_SERVER_MAX_SESSIONS": "2"}) as daemon:
        bench = Bench(plan, FOLDER / "ps_goforward.flac", ProgressLine(lambda text: None, redraws=False), goals)
        outcome = await bench.run(Direct(unix_target(daemon.socket), None))
    assert outcome.passed, outcome.text
    found = outcome.record["results"][0]
    assert (found["counts"]["turns"], found["counts"]["heard"]) == (2, 2)
    assert found["engines"]["transcribe"] == "echo"
    names = {"endpoint_ms", "first_text_ms", "final_ms"}
    assert names <= set(found["metrics"])
    assert names <= {name for name, each in found["as_voxd_counts"].items() if each["bench"]["n"] == 2}
    assert set(found["cpu"]["cores"]) == {"bench", "voxd", "engine"}
    assert any("full" in reason for reason in found["reasons"])


# ── several runs ────────────────────────────────────────────────────────────────────────────────────────────────────

A, B = (Direct(Target("ws://nobody.invalid:1/v1/realtime", Path(f"/nowhere/{name}")), None) for name in "ab")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Sessions and turns of each run there was; more than five sessions are slow, more than eight are refused."""
    done: list[tuple[int, int]] = []

    class FakeDrive:
        def __init__(self, plan: BenchPlan, clips: object, connect: object, *, processes: object) -> None:
            self.tallies: list[Any] = []
            self._plan = plan

        async def run(self) -> Result:
            done.append((self._plan.sessions, self._plan.turns))
            counts = Counts(turns=self._plan.turns, heard=self._plan.turns, refused=max(0, self._plan.sessions - 8))
            final_ms = 300.0 if self._plan.sessions <= 5 else 1000.0
            return Result(counts, [TurnMetrics(final_ms=final_ms)] * self._plan.turns)

    monkeypatch.setattr(command, "Drive", FakeDrive)
    return done


def several(plan: BenchPlan, *goals: str) -> tuple[Bench, list[str]]:
    lines: list[str] = []
    bench = Bench(
        plan, FOLDER / "ps_goforward.flac", ProgressLine(lines.append, redraws=False), [*map(Goal.parse, goals)]
    )
    return bench, lines


async def test_capacity(runs: list[tuple[int, int]]) -> None:
    bench, lines = several(BenchPlan(sessions=64, turns=2))
    found = await bench.find_capacity(A, Goal.parse("final_ms.p95<800"))
    assert [sessions for sessions, _ in runs] == [1, 2, 4, 8, 6, 5]
    assert (found.record["capacity"], found.passed) == (5, True)
    assert found.text.startswith("unix:/nowhere/a\n5 sessions × 2 turns")
    assert found.text.endswith("\ncapacity: 5 sessions with final_ms.p95<800")
    assert [line for line in lines if line.strip()] == [
        "   1 session   final_ms.p95 300   passes\n",
        "  2 sessions   final_ms.p95 300   passes\n",
        "  4 sessions   final_ms.p95 300   passes\n",
        "  8 sessions   final_ms.p95 1000   fails\n",
        "  6 sessions   final_ms.p95 1000   fails\n",
        "  5 sessions   final_ms.p95 300   passes\n",
    ]


async def test_capacity_needs_everybody_to_be_let_in(runs: list[tuple[int, int]]) -> None:
    bench, _ = several(BenchPlan(sessions=64, turns=2))
    assert (await bench.find_capacity(A, Goal.parse("final_ms.p95<2000"))).record["capacity"] == 8


async def test_no_capacity_at_all(runs: list[tuple[int, int]]) -> None:
    bench, _ = several(BenchPlan(sessions=64, turns=2))
    found = await bench.find_capacity(A, Goal.parse("final_ms.p95<100"))
    assert not found.passed
    assert "not even one session" in found.text
    assert len(runs) == 1


async def test_two_voxds_are_compared_in_halves(runs: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is A, B, B, A, so that drift touches both alike; the halves of each are joined in the figures."""
    asked: list[str] = []

    async def status(address: Address) -> dict[str, object]:
        asked.append(address.socket.name if address.socket is not None else "")
        return {}

    monkeypatch.setattr(command, "voxd_status", status)
    bench, _ = several(BenchPlan(sessions=2, turns=5), "final_ms.p50<500", "errors==0")
    found = await bench.compare(A, B)
    assert asked == ["a", "b", "b", "a"]
    assert [turns for _, turns in runs] == [3, 3, 2, 2]
    assert [result["metrics"]["final_ms"]["n"] for result in found.record["results"]] == [5, 5]
    assert found.record["ratio"]["final_ms"] == {"p50": 1.0, "p95": 1.0}
    assert found.passed


async def test_one_turn_has_no_halves(runs: list[tuple[int, int]]) -> None:
    await several(BenchPlan(turns=1))[0].compare(A, B)
    assert runs == [(1, 1), (1, 1)]


def test_progress_says_nothing_twice() -> None:
    """Many sessions hear from their voxd that it loads."""
    lines: list[str] = []
    progress = ProgressLine(lines.append, redraws=False)
    for text in ("loading", "loading", "warming up"):
        progress.line(text)
    assert lines == ["loading\n", "warming up\n"]


# ── the machine ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_cpu_time_is_that_of_the_process() -> None:
    before = cpu_s({"me": os.getpid(), "nobody": 2**22 + 1})
    sum(number * number for number in range(300_000))
    after = cpu_s({"me": os.getpid()})
    assert after["bench"] > before["bench"] > 0
    assert set(before) == {"bench", "me"}


def test_pids_of_another_machine_are_not_ours() -> None:
    """A forwarded port: the status is true, but those numbers belong to others here."""
    local = Address("ws://localhost:8000/v1/realtime")
    assert local_processes(local, {"pid": 1, "engine_pid": os.getpid()}) == {}
    assert local_processes(local, {"pid": os.getpid(), "engine_pid": 1}) == {}
    assert local_processes(local, {}) == {}


def test_the_machine_is_described() -> None:
    found = machine()
    assert found["cpu"]
    assert int(str(found["cores"])) >= 1
