"""Tests of conversions of PCM, and of its buffers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, strategies as st

from shared import audio
from shared.audio import Decoder, Ring, Truth


def tone(seconds: float, rate: int, hz: float = 440, level: float = 0.5) -> audio.Float32:
    return (level * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def test_pcm16_round_trip_is_exact() -> None:
    every = np.arange(-32768, 32768, dtype="<i2").tobytes()

    assert audio.float_to_pcm16(audio.pcm16_to_float(every)) == every


def test_loud_floats_are_clipped() -> None:
    assert np.frombuffer(audio.float_to_pcm16(np.array([2.0, -2.0], np.float32)), "<i2").tolist() == [32767, -32768]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_an_odd_byte_waits_for_its_other_half(data: bytes, cuts: list[int]) -> None:
    decoder = Decoder("audio/pcm", 16_000)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    out = b"".join(decoder.decode(data[a:b]) for a, b in itertools.pairwise(places))

    assert out == data[: len(data) & ~1]


@pytest.mark.parametrize("rate", [8000, 24_000, 44_100, 48_000])
def test_resampling_in_packets_equals_resampling_at_once(rate: int) -> None:
    pcm = audio.float_to_pcm16(tone(1.0, rate))
    decoder = Decoder("audio/pcm", rate)
    step = rate // 50 * 2
    out = b"".join(decoder.decode(pcm[i : i + step]) for i in range(0, len(pcm), step)) + decoder.drain()
    whole = Decoder("audio/pcm", rate)

    assert out == whole.decode(pcm) + whole.drain(), "the filter's state goes on from packet to packet"
    assert len(out) // 2 == 16_000
    got = audio.pcm16_to_float(out)[1000:15_000]
    assert np.abs(got - tone(1.0, 16_000)[1000:15_000]).max() < 1e-4, "and no sample is early or late"


@pytest.mark.parametrize(("rate", "most_ms"), [(8000, 3.9), (24_000, 1.9), (44_100, 1.9), (48_000, 1.9)])
def test_resampling_holds_back_half_of_its_filter_and_no_more(rate: int, most_ms: float) -> None:
    resampler, heard = audio.Resampler(rate), 0
    for packet in range(1, 40):
        heard += resampler.push(np.zeros(rate // 50, np.float32)).size
        assert 0 < packet * 20 - heard / 16 <= most_ms


def test_what_16_khz_cannot_hold_is_gone() -> None:
    for hertz in (8200, 9000, 11_500):
        heard = audio.Resampler(24_000).push(np.sin(2 * np.pi * hertz * np.arange(24_000) / 24_000).astype(np.float32))
        assert np.abs(heard[200:]).max() < 1e-4


def test_g711_expands_to_the_levels_of_the_recommendation() -> None:
    mu, a = Decoder("audio/pcmu", 8000), Decoder("audio/pcma", 8000)

    assert mu._table is not None
    assert a._table is not None
    assert (int(mu._table[0x80]), int(mu._table[0xFF])) == (32124, 0)
    assert (int(a._table[0xD5]), int(a._table[0xAA])) == (8, 32256)
    assert sorted(set(np.abs(a._table.astype(int)))) == sorted(set(np.abs(a._table[:128].astype(int))))


def test_silence_has_a_level() -> None:
    assert audio.level_dbfs(np.zeros(160, np.float32)) == -120.0
    assert audio.level_dbfs(np.zeros(0, np.float32)) == -120.0
    assert audio.level_dbfs(tone(0.1, 16_000, level=1.0)) == pytest.approx(-3.01, abs=0.1)


def test_the_truth_finds_where_speech_began_and_ended() -> None:
    clip = np.concatenate([np.zeros(1600, np.float32), tone(0.5, 16_000), np.zeros(8000, np.float32)])
    truth = Truth(clip, offset=100)

    assert truth.first_voiced(0, 99_999) == 1700
    assert truth.last_voiced(0, 99_999) == 100 + 1600 + 8000
    assert truth.last_voiced(0, 5000) == 100 + 31 * 160
    assert truth.first_voiced(10_000, 20_000) is None
    assert Truth(np.zeros(16_000, np.float32)).last_voiced(0, 99_999) is None


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, 100), st.integers(0, 600), st.integers(0, 600))
def test_a_ring_holds_the_latest_samples_by_index(sizes: list[int], capacity: int, start: int, end: int) -> None:
    ring, whole = Ring(capacity), b""
    for size in sizes:
        piece = np.arange(len(whole) // 2, len(whole) // 2 + size, dtype="<i2").tobytes()
        ring.append(piece)
        whole += piece
        assert ring.end - ring.start <= capacity
    first, pcm = ring.read(start, end)

    assert first >= ring.start
    assert pcm == whole[first * 2 : max(first, min(end, ring.end)) * 2]
