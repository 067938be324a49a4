"""Voice, pauses and places to cut, as they follow from the VAD's probabilities."""

from __future__ import annotations

from shared.audio import VAD_FRAME
from voxd.engine.voice import Voice

V, N, S = 0.9, 0.4, 0.1  # voiced, neither, silent


def voice(*frames: float, start: int = 0) -> Voice:
    made = Voice(start)
    made.append(start, frames)
    return made


def test_first_and_last_voiced_frame_of_a_range() -> None:
    heard = voice(S, N, V, S, V, N, S, start=100)
    assert heard.end == 100 + 7 * VAD_FRAME
    assert heard.first_voiced(100, heard.end) == 100 + 2 * VAD_FRAME
    assert heard.last_voiced(100, heard.end) == 100 + 5 * VAD_FRAME
    assert heard.first_voiced(100 + 3 * VAD_FRAME, heard.end) == 100 + 4 * VAD_FRAME
    assert heard.first_voiced(100, 100 + 2 * VAD_FRAME) is None
    assert heard.last_voiced(heard.end, heard.end + VAD_FRAME) is None


def test_positions_stay_inside_the_range_asked_for() -> None:
    heard = voice(V, V, V)
    assert heard.first_voiced(700, 800) == 700
    assert heard.last_voiced(700, 800) == 800


def test_silence_lasts_since_the_last_frame_that_was_not() -> None:
    assert voice().silence() == 0
    assert voice(V, S, N, S, S).silence() == 2 * VAD_FRAME
    assert voice(S, V).silence() == 0


def test_trimmed_frames_are_gone_and_positions_stay() -> None:
    heard = voice(V, S, S, V)
    heard.trim(2 * VAD_FRAME + 5)
    assert heard.first_voiced(0, heard.end) == 3 * VAD_FRAME
    heard.trim(100 * VAD_FRAME)
    assert heard.end == 4 * VAD_FRAME
    heard.append(4 * VAD_FRAME, (V,))
    assert heard.first_voiced(0, heard.end) == 4 * VAD_FRAME


def test_a_cut_is_the_middle_of_the_longest_pause() -> None:
    heard = voice(*[V] * 5, *[S] * 6, *[V] * 5, *[S] * 8, *[V] * 5)
    assert heard.cut(0, heard.end, pause_only=True) == 20 * VAD_FRAME
    assert heard.cut(0, 16 * VAD_FRAME, pause_only=True) == 8 * VAD_FRAME


def test_a_short_gap_is_no_pause() -> None:
    heard = voice(*[V] * 10, *[S] * 5, *[V] * 10)
    assert heard.cut(0, heard.end, pause_only=True) is None


def test_without_a_pause_the_cut_is_where_the_voice_is_weakest() -> None:
    heard = voice(*[V] * 10, N, 0.36, N, *[V] * 10)
    at = heard.cut(0, heard.end, pause_only=False)
    assert at is not None
    assert 11 * VAD_FRAME < at < 12 * VAD_FRAME
    assert voice(V, V).cut(0, 2 * VAD_FRAME, pause_only=False) is None
