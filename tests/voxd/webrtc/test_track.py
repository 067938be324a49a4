"""An RTP track's frames -> 16 kHz audio: nothing is held back for long, and the sample clock is the sender's."""

from __future__ import annotations

import numpy as np
import pytest

from shared.audio import Float32, Int16, Resampler, pcm16_to_float
from voxd.webrtc.track import CLOCK, RtpTrack

FRAME = 960  # 20 ms at 48 kHz
HELD = 30  # samples at 16 kHz that the low-pass waits for


def tone(hertz: float, seconds: float = 1.0) -> Float32:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * CLOCK)) / CLOCK).astype(np.float32)


def decimated(samples: Float32, step: int) -> Float32:
    resampler = Resampler(CLOCK)
    return np.concatenate([resampler.push(samples[at : at + step]) for at in range(0, samples.size, step)])


@pytest.mark.parametrize("step", [1, 7, 120, 480, 960, 2880])
def test_audio_comes_out_as_it_went_in_whatever_the_size_of_frames(step: int) -> None:
    heard = decimated(tone(1000), step)
    expected = tone(1000)[::3][: heard.size]

    assert heard.size == CLOCK // 3 - HELD
    assert np.abs(heard - expected)[HELD:].max() < 1e-4, "and not a sample late"


def test_what_16_khz_cannot_hold_is_not_heard() -> None:
    def level(hertz: float) -> float:
        return float(20 * np.log10(np.sqrt(2 * np.mean(np.square(decimated(tone(hertz), FRAME)[200:]))) + 1e-9))

    assert level(6800) > -0.1
    assert all(level(hertz) < -80 for hertz in (8000, 8500, 9200, 12_000, 15_900, 23_000))


def frame(value: int = 1000, size: int = FRAME) -> Int16:
    """A frame of two channels."""
    return np.full((size, 2), value, np.int16)


def us(ticks: int) -> int:
    return ticks * 1_000_000 // CLOCK


class Line:
    """A sender of frames and the track that they come to; everything is on time unless told otherwise."""

    def __init__(self) -> None:
        self.track = RtpTrack()
        self.heard: list[bytes] = []

    def send(self, timestamp: int, at: int | None = None, size: int = FRAME) -> None:
        """`at`: when it comes, in ticks."""
        now = us(timestamp if at is None else at)
        self.heard.append(self.track.receive(timestamp, frame(size=size), now))

    @property
    def samples(self) -> Float32:
        return pcm16_to_float(b"".join(self.heard))


def test_each_frame_is_heard_at_once_but_for_two_milliseconds() -> None:
    line = Line()
    for number in range(50):
        line.send(number * FRAME)
        assert line.samples.size == (number + 1) * 320 - HELD


def test_channels_are_mixed() -> None:
    track, stereo = RtpTrack(), np.stack([np.full(FRAME, 2000, np.int16), np.zeros(FRAME, np.int16)], axis=1)
    assert pcm16_to_float(track.receive(0, stereo, 0))[100] == pytest.approx(1000 / 32768, abs=1e-3)


def test_silence_stands_for_what_was_lost_so_that_positions_stay_true() -> None:
    line = Line()
    for number in (0, 1, 2, 5, 6, 7, 8, 9):
        line.send(number * FRAME)

    samples = line.samples
    assert samples.size == 10 * 320 - HELD
    assert line.track.lost == 2 * FRAME
    assert np.abs(samples[3 * 320 + HELD : 5 * 320 - HELD]).max() < 1e-3
    assert samples[5 * 320 + 2 * HELD] == pytest.approx(1000 / 32768, abs=1e-3)


def test_the_clock_is_true_after_a_long_lossy_call() -> None:
    line, random = Line(), np.random.default_rng(3)
    kept = [number for number in range(5000) if random.random() > 0.03]
    for number in kept:
        line.send(number * FRAME, at=number * FRAME + int(random.integers(0, 2000)))
    assert line.samples.size == (kept[-1] + 1) * 320 - HELD


def test_frames_of_any_length_are_counted_as_long_as_they_are() -> None:
    line, at = Line(), 0
    for size in (120, 480, 960, 2880, 1920):
        line.send(at, size=size)
        at += size
    assert line.samples.size == at // 3 - HELD


@pytest.mark.parametrize("jump", [10 * CLOCK, 1 << 32, -5 * CLOCK, -(1 << 32)])
def test_a_sender_that_begins_anew_causes_no_silence(jump: int) -> None:
    """Only 20 ms have passed, so no sound of that length was lost."""
    line = Line()
    line.send(0)
    line.send(FRAME + jump, at=FRAME)
    line.send(2 * FRAME + jump, at=2 * FRAME)

    assert line.samples.size == 3 * 320 - HELD
    assert line.track.lost == 0


def test_a_link_that_held_back_ten_seconds_delivers_them() -> None:
    line = Line()
    line.send(0)
    for number in range(1, 501):
        line.send(number * FRAME, at=500 * FRAME)
    assert line.samples.size == 501 * 320 - HELD


def test_a_sender_faster_than_time_is_not_heard_beyond_its_credit() -> None:
    line = Line()
    for number in range(10_000):  # 200 s of audio in 10 s
        line.send(number * FRAME, at=number * FRAME // 20)
    assert line.samples.size / 16_000 < 10 * 1.05 + 2.1


def test_a_flood_of_gaps_makes_no_more_silence_than_time_has_passed() -> None:
    line = Line()
    for number in range(2000):  # each a second after the one before, if one believed it; all within 2 s
        line.send(number * (CLOCK + FRAME), at=number * 48)
    assert line.samples.size / 16_000 < 2 * 1.05 + 2.1


def test_a_clock_that_runs_fast_is_followed() -> None:
    """A hundred seconds at four percent end twice as far ahead as would be allowed at once."""
    line = Line()
    for second in range(100):
        line.send(second * CLOCK, at=int(second * CLOCK * 0.96), size=CLOCK)
    assert line.samples.size == 100 * 16_000 - HELD
