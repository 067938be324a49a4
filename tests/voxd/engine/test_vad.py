"""The VAD gives the same in a batch and alone, in audio order, with its state kept from call to call."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from shared.audio import RATE, VAD_FRAME, Float32, Truth, float_to_pcm16
from tests.support.speech import clip
from voxd.engine import vad as module
from voxd.engine.vad import MODEL, Vad, load_network

pytest.importorskip("onnxruntime", reason="the VAD's runtime is not installed")


def hear(vad: Vad) -> dict[int, list[float]]:
    """Scores everything that is due, by stream; checks that no frame is left out or scored twice."""
    out: dict[int, list[float]] = {}
    starts: dict[int, int] = {}
    while vad.has_work:
        for heard in vad.step():
            assert heard.start == starts.get(heard.stream, heard.start)
            starts[heard.stream] = heard.start + VAD_FRAME * len(heard.probabilities)
            out.setdefault(heard.stream, []).extend(heard.probabilities)
    return out


def alone(pcm: bytes) -> list[float]:
    vad = Vad()
    vad.open(1)
    vad.feed(1, pcm)
    return hear(vad)[1]


class Loud:
    """A network whose probability is the first sample of each frame, and which counts frames in its state."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, frames: Float32, state: Float32) -> tuple[Float32, Float32]:
        self.rows.append(len(frames))
        return frames[:, 64] + 10 * state[0, :, 0], state + 1


def pcm(*values: int) -> bytes:
    """Audio with one frame per value."""
    return np.repeat(np.array(values, "<i2"), VAD_FRAME).tobytes()


def test_the_network_is_the_one_that_was_tested() -> None:
    digest = hashlib.sha256(MODEL.read_bytes()).hexdigest()
    assert digest == "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"


def test_a_batch_hears_what_each_stream_hears_alone() -> None:
    clips = [clip(name).pcm() for name in ("ps_goforward", "arctic_slt_a0009", "cv_en_22058266")]
    vad = Vad()
    for stream, data in enumerate(clips):
        vad.open(stream)
        vad.feed(stream, data)
    together = hear(vad)
    for stream, data in enumerate(clips):
        assert len(together[stream]) == len(data) // 2 // VAD_FRAME
        np.testing.assert_allclose(together[stream], alone(data), atol=1e-4)


def test_the_state_is_kept_whatever_the_pieces() -> None:
    data = clip("ps_goforward").pcm()
    vad, out = Vad(), list[float]()
    vad.open(1, start=77)
    for at in range(0, len(data), 642):  # 321 samples
        vad.feed(1, data[at : at + 642])
        for heard in vad.step():
            assert heard.start == 77 + VAD_FRAME * len(out)
            out += heard.probabilities
    np.testing.assert_allclose(out, alone(data), atol=1e-6)


def test_speech_is_speech_and_noise_is_not() -> None:
    samples = clip("arctic_slt_a0009").samples()
    found = np.flatnonzero(np.array(alone(float_to_pcm16(samples))) >= 0.5) * VAD_FRAME
    truth = Truth(samples)
    first, last = truth.first_voiced(0, samples.size), truth.last_voiced(0, samples.size)
    assert first is not None
    assert last is not None
    assert abs(int(found[0]) - first) < 0.1 * RATE
    assert abs(int(found[-1]) + VAD_FRAME - last) < 0.1 * RATE
    noise = np.random.default_rng(1).normal(0, 0.03, 10 * RATE).astype(np.float32)
    assert max(alone(float_to_pcm16(noise))) < 0.5
    assert max(alone(bytes(2 * 10 * RATE))) < 0.5


def test_each_row_keeps_its_own_state_and_context() -> None:
    network = Loud()
    vad = Vad(lambda: network)
    vad.open(1)
    vad.open(2)
    vad.feed(1, pcm(0, 0, 0))
    vad.feed(2, pcm(16384))
    assert hear(vad) == {1: [0.0, 10.0, 20.0], 2: [0.5]}
    vad.feed(2, pcm(16384))
    assert hear(vad) == {2: [10.5]}


def test_less_than_a_frame_is_neither_work_nor_lag() -> None:
    vad = Vad(Loud)
    vad.open(1)
    vad.feed(1, bytes(2 * VAD_FRAME - 2))
    assert not vad.has_work
    assert vad.lag_samples == 0
    assert vad.step() == []
    vad.feed(1, bytes(2 + 2 * VAD_FRAME))
    assert vad.has_work
    assert vad.lag_samples == 2 * VAD_FRAME


def test_a_step_is_bounded_and_a_backlog_starves_nobody() -> None:
    network = Loud()
    vad = Vad(lambda: network)
    for stream in range(100):
        vad.open(stream)
        vad.feed(stream, bytes(2 * VAD_FRAME * (1000 if stream == 0 else 1)))
    first, second = vad.step(), vad.step()
    assert max(network.rows) == 64
    assert sum(network.rows) <= 2 * 256
    assert {heard.stream for heard in first + second} == set(range(100))
    assert len(vad.step()[0].probabilities) == 32


def test_closed_streams_are_not_heard_and_open_keeps_what_is_open() -> None:
    vad = Vad(Loud)
    vad.open(1)
    vad.open(2, start=100)
    vad.feed(1, pcm(1))
    vad.feed(2, pcm(1))
    vad.open(2, start=5)
    vad.close(1)
    vad.close(1)
    assert [(heard.stream, heard.start) for heard in vad.step()] == [(2, 100)]


def test_the_runtime_is_loaded_with_the_first_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[int] = []
    vad = Vad(lambda: loads.append(1) or Loud())  # type: ignore[func-returns-value]
    vad.open(1)
    vad.step()
    assert not loads
    vad.feed(1, pcm(1, 1))
    vad.step()
    vad.feed(1, pcm(1))
    vad.step()
    assert loads == [1]
    assert not hasattr(module, "onnxruntime")


def test_the_runtime_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    load_network()(np.zeros((1, 576), np.float32), np.zeros((2, 1, 128), np.float32))
    assert capfd.readouterr() == ("", "")
