"""The engine beside transformers' own model, as a user compares them; and a bench that measures something."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
import torch
from click.testing import CliRunner

from tests.support.tiny_voxtral import RATE, folder, speechlike
from voxd.cli import main
from voxd.engine.realtime.interface import RealtimeOptions
from voxd.engine.realtime.model import RealtimeCheckpoint
from voxd.lab.bench_realtime import Ceilings, Workload, bench, percentiles, random_checkpoint
from voxd.lab.verify_realtime import Agreement, Reference, SpeechClip, _row, compare, verify


def quiet(text: str) -> None:
    """Progress that nobody reads."""


def tiny() -> RealtimeCheckpoint:
    return RealtimeCheckpoint.load(str(folder(0)), "cpu", torch.float32, quiet)


def test_in_fp32_all_tokens_agree() -> None:
    """Clips of different lengths share a batch."""
    clips = [SpeechClip("one", speechlike(6.0, 1)), SpeechClip.synthetic(0, 3.3), SpeechClip("two", speechlike(2.7, 2))]
    found = verify(tiny(), clips, quiet)
    assert [agreement.holds and agreement.agree == agreement.tokens for agreement in found] == [True] * 3
    assert [agreement.tokens for agreement in found] == [75 + 10, 42 + 10, 34 + 10]


def test_a_difference_is_found_where_it_is() -> None:
    """The margin of the reference tells whether it counts."""
    sure = Reference([5, 6, 7, 8], [9.0, 0.01, 9.0, 0.5])
    assert compare("one", [5, 0, 7, 8], sure) == Agreement("one", 4, 3, 1)
    assert compare("one", [5, 0, 7, 8], sure).holds
    assert not compare("one", [5, 6, 0, 8], sure).holds
    assert str(compare("one", [5, 0, 7, 8], sure)).startswith("one: 3 of 4 tokens agree; at 1 of the others")


def test_an_engine_that_hears_something_else_does_not_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is given silence."""
    monkeypatch.setattr("voxd.lab.verify_realtime._row", lambda run, clip: _row(run, clip)._replace(body=bytes(4000)))
    (found,) = verify(tiny(), [SpeechClip("one", speechlike(4.0, 1))], quiet)
    assert found.agree < found.tokens
    assert not found.holds


def test_the_command_says_how_many_agree(tmp_path: Path) -> None:
    sound = tmp_path / "clip.wav"
    soundfile.write(sound, speechlike(3.0, 1), RATE, subtype="PCM_16")
    done = CliRunner().invoke(main, ["verify", str(folder(0)), "--audio", str(sound), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "clip.wav: all 48 tokens agree\n" in done.stdout
    assert "Voxtral Realtime on the CPU" in done.stderr


def test_a_model_that_is_not_there_is_one_sentence() -> None:
    done = CliRunner().invoke(main, ["verify", "nobody/nothing", "--device", "cpu"])
    assert done.exit_code == 1
    told = "voxd: there is no model 'nobody/nothing' on this machine; get it with: voxd pull nobody/nothing\n"
    assert done.stderr == told


# ── bench-engine ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_floor_is_the_larger_of_moving_and_computing() -> None:
    at = Ceilings(bytes_s=1e12, flops=1e15)
    assert at.floor_ms(read=2e9, operations=1e12) == pytest.approx(2.0)
    assert at.floor_ms(read=1e9, operations=4e12) == pytest.approx(4.0)
    assert at.floor_ms(read=1e9, operations=0, always=1e9) == pytest.approx(2.0)


def test_the_work_of_the_released_model_is_what_the_design_says() -> None:
    """8.85 GB of weights, 14.7 GFLOP per stream and step, 262 144 and 106 496 bytes of history per row."""
    with torch.device("meta"):
        work = Workload.of(random_checkpoint("meta", torch.bfloat16).model)
    assert work.weights == pytest.approx(8.86e9, rel=0.01)
    assert 2 * (4 * work.encoder + work.decoder) == pytest.approx(14.7e9, rel=0.02)
    assert work.rows == (262_144, 106_496)


def test_percentiles() -> None:
    assert percentiles(range(1, 101)) == {"p50": 50.5, "p95": 95.05, "p99": 99.01}


@pytest.mark.slow
def test_a_bench_measures_each_thing_beside_its_floor() -> None:
    from tests.support.tiny_voxtral import _model

    checkpoint = random_checkpoint("cpu", torch.float32, _model(60, 24).config)
    found = bench(checkpoint, RealtimeOptions(max_streams=4, max_history_s=10), quiet, compare=True, quick=True)
    assert json.loads(json.dumps(found)) is not None
    assert [row["batch"] for row in found["steps"]] == [1, 4]
    assert all(row["floor_ms"] > 0 for row in found["steps"])
    assert all(0 < row["device_ms"] <= row["ms"] for row in found["steps"])
    assert found["transformers_ms"] > 0
    assert found["flush"][0]["last_word_ms"]["p50"] < found["flush"][0]["all_ms"]["p50"]
    (loop,) = found["open_loop"]
    assert loop["frames"] == pytest.approx(2 * 3 / 0.08, abs=4), "two streams, three seconds, nothing lost"
