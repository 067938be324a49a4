"""Voxtral Mini beside transformers' own model, as a user compares them; and a bench that measures something."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import soundfile
import torch
from click.testing import CliRunner

from tests.support.tiny_mini import config, folder
from tests.support.tiny_voxtral import RATE, _model, speechlike
from voxd.cli import main
from voxd.engine.mini.build import build
from voxd.engine.mini.interface import MiniDevice, MiniOptions
from voxd.engine.mini.model import MiniCheckpoint
from voxd.lab import bench_mini, bench_realtime, verify_mini
from voxd.lab.bench_conversation import PACKET, Conversations, Habit, alone, engine_of
from voxd.lab.bench_mini import Workload, bench, generate_times, random_checkpoint, steps
from voxd.lab.bench_realtime import Ceilings
from voxd.lab.verify_mini import rows, verify
from voxd.lab.verify_realtime import SpeechClip

OPTIONS = MiniOptions(max_conversations=8, max_context=2048)


def quiet(text: str) -> None:
    """Progress that nobody reads."""


# ── verify ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lengths", [[4.0], pytest.param([31.0, 6.0], marks=pytest.mark.slow)])
def test_in_fp32_tokens_of_all_kinds_of_prompts_agree(lengths: list[float]) -> None:
    clips = [SpeechClip(f"{seconds} s", speechlike(seconds, 1)) for seconds in lengths]
    found = verify(MiniCheckpoint.load(str(folder(0)), "cpu", torch.float32, quiet), clips, quiet)
    kinds = ["", " and text", " as the second turn", " to be written down"]
    assert [agreement.name for agreement in found] == [clip.name + kind for clip in clips for kind in kinds]
    assert all(agreement.holds and agreement.tokens == 48 for agreement in found)
    assert sum(agreement.tokens - agreement.agree for agreement in found) <= 2, "ties of some thousandth"


def test_an_engine_that_hears_something_else_does_not_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is given silence for each window."""
    monkeypatch.setattr("voxd.lab.verify_mini.write_samples", lambda window, read, around: around.fill(0))
    checkpoint = MiniCheckpoint.load(str(folder(0)), "cpu", torch.float32, quiet)
    found = verify(checkpoint, [SpeechClip("one", speechlike(4.0, 1))], quiet)
    assert not any(agreement.holds for agreement in found)


def test_an_engine_that_forgets_a_page_does_not_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third page of each sequence is taken for the second."""

    def wrong(slot: int, pages: Sequence[int], first: int, sources: Sequence[int]) -> verify_mini.Table:
        return rows(slot, [*pages[:2], pages[1], *pages[3:]], first, sources)

    monkeypatch.setattr(verify_mini, "rows", wrong)
    checkpoint = MiniCheckpoint.load(str(folder(0)), "cpu", torch.float32, quiet)
    assert not any(agreement.holds for agreement in verify(checkpoint, [SpeechClip("one", speechlike(4.0, 1))], quiet))


def test_the_command_sees_which_model_it_is(tmp_path: Path) -> None:
    sound = tmp_path / "clip.wav"
    soundfile.write(sound, speechlike(3.0, 1), RATE, subtype="PCM_16")
    done = CliRunner().invoke(main, ["verify", str(folder(0)), "--audio", str(sound), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "clip.wav and text: " in done.stdout
    assert "Voxtral Mini on the CPU" in done.stderr


# ── bench-engine ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_work_of_the_released_model_is_what_the_design_says() -> None:
    """2.28 TFLOP for a window, 2.5 for a prompt of 384; 7.22 GB for a token, and 122 880 bytes per position."""
    with torch.device("meta"):
        work = Workload.of(random_checkpoint("meta", torch.bfloat16).model)
    computing, moving = Ceilings(bytes_s=1e18, flops=1e12), Ceilings(bytes_s=1e9, flops=1e18)
    assert work.encoder_ms(computing) / 1000 == pytest.approx(2.28, rel=0.01)
    assert work.prefill_ms(computing, 384) / 1000 == pytest.approx(2.47, rel=0.01)
    assert work.decode_ms(moving, 1, 0) / 1000 == pytest.approx(7.22, rel=0.01)
    assert work.decode_ms(moving, 2, 1000) - work.decode_ms(moving, 2, 0) == pytest.approx(2 * 122.88, rel=0.01)


@cache
def checkpoint_of_its_own() -> MiniCheckpoint:
    return random_checkpoint("cpu", torch.float32, config())


@cache
def device() -> MiniDevice:
    torch.set_num_threads(1)
    return build(random_checkpoint("cpu", torch.float32, config()), OPTIONS, quiet, eager=True)


def free(made: MiniDevice) -> bool:
    return all(store.free == store.count for store in (made.slots, made.pages, made.places))


def test_each_step_is_measured_beside_its_floor() -> None:
    work = Workload.of(checkpoint_of_its_own().model)
    found = steps(device(), work, Ceilings(1e10, 1e10), quiet, quick=True)
    assert [row["batch"] for row in found["decode"]] == [1, 4]
    for row in (found["encoder"], found["prefill"], *found["decode"]):
        assert 0 < row["device_ms"] <= row["ms"]
        assert row["floor_ms"] > 0
    assert free(device())


def test_a_turn_that_was_begun_ahead_is_answered_sooner() -> None:
    """The encoder alone takes a hundred times as long as saying what is ready."""
    found = alone(device(), Habit(6, 15, 8), 3)
    assert found["begun_ahead"]["first_token_ms"]["p50"] < found["after_commit"]["first_token_ms"]["p50"]  # type: ignore[index]
    assert free(device())


def test_people_are_answered_each_time_they_spoke() -> None:
    """Three people speak twice, by a clock of the test's own."""
    now = [0.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("voxd.lab.bench_conversation.time.perf_counter", lambda: now[0])
        habit = Habit(6, 25, 5)
        talks = Conversations(engine_of(device()), 3, 2 * habit.every * 0.08 * 2 - 0.01, habit, ahead=False)
        while talks.turn():
            now[0] += 0.01
        talks.leave()
    found = talks.found()
    turns = sorted(talks.answers)
    assert len(turns) >= 6
    assert found["settled"] == len(turns)
    assert found["tokens"] == 5 * len(turns)
    assert min(sum(number == who for number, _ in turns) for who in range(3)) >= 2
    assert all(answer.said[0] >= answer.due for answer in talks.answers.values())
    assert PACKET == 0.08 * RATE
    assert free(device())


def test_transformers_is_watched_token_by_token() -> None:
    found = generate_times(checkpoint_of_its_own(), 6)
    assert 0 < found["token_ms"] < found["first_token_ms"] < found["whole_ms"]


@pytest.mark.slow  # it speaks in real time
def test_a_bench_measures_both_models_in_one_loop() -> None:
    live = bench_realtime.random_checkpoint("cpu", torch.float32, _model(60, 24).config)
    checkpoint = random_checkpoint("cpu", torch.float32, config())
    found = bench(checkpoint, live, OPTIONS, quiet, compare=True, quick=True)
    assert json.loads(json.dumps(found)) is not None
    (loop,) = found["open_loop"]
    assert loop["answers"] == loop["settled"] == 2
    assert found["beside"]["settled"] == 2
    assert found["beside"]["live_frame_ms"]["p99"] > 0
    assert len(found["beside_prefill"]["worst_ms"]) == found["beside_prefill"]["prefills"] == 2


@pytest.mark.slow
def test_the_command_measures_random_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The models are tiny ones here."""
    own, other, live = bench_mini.random_checkpoint, bench_realtime.random_checkpoint, _model(60, 24).config
    monkeypatch.setattr(bench_mini, "random_checkpoint", lambda where, dtype: own(where, dtype, config()))
    monkeypatch.setattr(bench_realtime, "random_checkpoint", lambda where, dtype: other(where, dtype, live))
    given = ["--random-weights", "--engine", "voxtral-mini", "--quick", "--device", "cpu", "--json"]
    done = CliRunner().invoke(main, ["bench-engine", *given, str(tmp_path / "found.json")])
    assert done.exit_code == 0, done.output
    assert set(json.loads((tmp_path / "found.json").read_text())) >= {"load_s", "steps", "alone", "beside"}


def test_what_is_taken_beside_the_plan_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a device with 2 GB, one of them free: what is not weights, pages or what is nobody's is work space."""
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10**9, 2 * 10**9))
    found = bench_mini._memory(checkpoint_of_its_own(), None, device(), None)
    assert found["used"] == 1.0
    pages = device().pages.count * 64 * 2 * 3 * 2 * 16 * 4
    assert found["planned"] == pytest.approx((pages + 4e6) / 1e9, abs=0.01)
    assert found["work_space"] == pytest.approx(found["used"] - found["planned"], abs=0.02)
