"""shared.audio_file, mono, ogg, riff: odd files of every kind come out as long as ffmpeg finds them, or say why not."""

from __future__ import annotations

import io
import os
import re
import subprocess
import threading
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import pytest
from hypothesis import given, strategies as st

from shared import audio_file
from shared.audio import RATE, Float32, level_dbfs, pcm16_to_float
from shared.audio_file import AudioFile, TooLong, Unreadable, read_whole
from shared.mono import Mono
from shared.ogg import Links
from tests.support.odd_files import FFMPEG, SECONDS, Odd, coded, corpus, voice, wav

CLOSE_S = 0.05  # to what ffmpeg finds
needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="ffmpeg is not installed (Debian: apt-get install ffmpeg)")


def heard(data: bytes | BinaryIO, limit: int | None = None) -> tuple[bytes, str]:
    """All samples of a file, and the notes about it."""
    with AudioFile(io.BytesIO(data) if isinstance(data, bytes) else data, limit=limit) as file:
        pcm = b"".join(iter(file.read, b""))
        return pcm, "; ".join(file.notes)


def attempt(data: bytes) -> tuple[bytes, str]:
    """The same as `heard`; for an unreadable file no samples, and the reason."""
    try:
        return heard(data)
    except Unreadable as error:
        return b"", str(error)


def ffmpeg_s(path: Path) -> float:
    command = [str(FFMPEG), "-v", "quiet", "-i", str(path), "-f", "s16le", "-ac", "1", "-ar", str(RATE), "-"]
    return len(subprocess.run(command, capture_output=True, check=False).stdout) / 2 / RATE


@pytest.mark.parametrize("odd", corpus(), ids=lambda odd: odd.name)
def test_odd_files(odd: Odd, tmp_path: Path) -> None:
    """Each file is as long as it is known to be, or as ffmpeg finds; longer where ffmpeg stops too early."""
    pcm, told = attempt(odd.data)
    assert pcm or odd.seconds == 0, told
    there_s = len(pcm) / 2 / RATE
    assert re.search(odd.told, told)
    assert odd.told or not told or odd.seconds == 0, f"nothing is odd: {told}"
    if odd.seconds is not None:
        assert abs(there_s - odd.seconds) <= CLOSE_S
    if FFMPEG:
        path = tmp_path / "odd"
        path.write_bytes(odd.data)
        found_s = ffmpeg_s(path)
        assert abs(there_s - found_s) <= CLOSE_S or (odd.seconds is not None and there_s > found_s)
    if odd.seconds:
        assert level_dbfs(pcm16_to_float(pcm)) > level_dbfs(voice()) - 9, "the voice is as loud as it was"


def test_it_is_the_same_sound_whatever_the_channels_and_scale() -> None:
    """Opposite channels, floats in the range of integers, NaN: what comes out is the voice."""
    plain = voice()
    for odd in corpus():
        if re.fullmatch(r"opposite-1\.0.*|two-opposite.*|(float|double)-\d+-.*|1-nan.wav|\d+-channels.*", odd.name):
            found = pcm16_to_float(heard(odd.data)[0])
            assert np.abs(found - plain[: found.size]).max() < 0.02 or odd.name == "1-nan.wav", odd.name
            assert np.corrcoef(found, plain[: found.size])[0, 1] > 0.999, odd.name


def test_what_only_one_channel_holds_is_kept_beside_channels_that_cancel_each_other() -> None:
    """Somebody speaks on the right alone, after a jingle that cancels itself."""
    hum = 0.3 * np.sin(2 * np.pi * 300 * np.arange(2 * RATE) / RATE).astype(np.float32)
    left = np.concatenate([hum, np.zeros_like(voice())])
    right = np.concatenate([-hum, voice()])
    pcm, told = heard(wav(np.stack([left, right], axis=1)))
    assert "cancel" in told
    found = pcm16_to_float(pcm)
    assert level_dbfs(found[: 2 * RATE]) == pytest.approx(level_dbfs(hum), abs=0.5)
    assert level_dbfs(found[2 * RATE :]) == pytest.approx(level_dbfs(voice()) - 6, abs=0.5)


def test_one_broken_sample_changes_no_scale() -> None:
    samples = voice().copy()
    samples[9_000] = 30_000.0
    pcm, told = heard(wav(samples, subtype="FLOAT"))
    assert told == ""
    assert level_dbfs(pcm16_to_float(pcm)) == pytest.approx(level_dbfs(voice()), abs=0.5)


# ── bounds ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "CAF"])
def test_a_limit_holds_before_much_was_decoded(kind: str) -> None:
    """A file is refused at once where its header tells the length, else when the limit is reached."""
    data = wav(np.zeros(600 * RATE, np.float32), kind=kind)
    with pytest.raises(TooLong, match=r"more than 0\.0833 hours"):
        heard(data, limit=300 * RATE)
    assert len(heard(data, limit=600 * RATE)[0]) == 2 * 600 * RATE


def test_memory_does_not_grow_with_the_file() -> None:
    """At most a few seconds of half an hour are in memory: the bound is in bytes, not in time."""
    data = wav(np.zeros(1800 * RATE, np.int16).astype(np.float32), kind="FLAC")
    tracemalloc.start()
    with AudioFile(io.BytesIO(data)) as file:
        while file.read():
            pass
        assert file.samples == 1800 * RATE
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


# ── pipes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def piped(data: bytes) -> BinaryIO:
    """A pipe into which a thread writes the file, in pieces of any size."""
    reader, writer = os.pipe()

    def write() -> None:
        with os.fdopen(writer, "wb") as out:
            out.write(data)

    threading.Thread(target=write, daemon=True).start()
    return os.fdopen(reader, "rb")


@needs_ffmpeg
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("wav", ()),
        ("flac", ()),
        ("mp3", ()),
        ("ogg", ("-c:a", "libopus")),
        ("webm", ()),
        ("mp4", ("-movflags", "frag_keyframe+empty_moov")),
    ],
)
def test_a_pipe_gives_what_the_file_gives(kind: str, options: tuple[str, ...]) -> None:
    data = coded(*options, kind=kind)
    assert heard(piped(data)) == heard(data)


@needs_ffmpeg
def test_a_pipe_is_kept_where_its_index_comes_last(tmp_path: Path) -> None:
    """Neither an mp4 nor a finished WAV can be read from its beginning alone, so the pipe is kept."""
    path = tmp_path / "x.m4a"
    (tmp_path / "x.wav").write_bytes(wav())
    subprocess.run([str(FFMPEG), "-v", "error", "-i", str(tmp_path / "x.wav"), str(path)], check=True)
    data = path.read_bytes()
    assert data.index(b"moov") > data.index(b"mdat")
    assert heard(piped(data)) == heard(data)
    with pytest.raises(Unreadable, match="moov"):
        heard(data[: data.index(b"moov") - 4])
    lying = next(odd.data for odd in corpus() if odd.name == "size-too-small-1000.wav")
    assert heard(piped(lying)) == heard(lying)


def test_a_pipe_is_kept_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_file, "COPIED", 1000)
    with pytest.raises(Unreadable, match="give it as a file"):
        heard(piped(wav()))


# ── the parts ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.binary(max_size=3000), st.integers(1, 700))
def test_no_bytes_upset_the_links_of_an_ogg_file(data: bytes, size: int) -> None:
    """Whatever the bytes, the reader returns pages of the file in order, and ends."""
    links, found = Links(io.BytesIO(b"OggS" + data)), b""
    while True:
        while piece := links.read(size):
            found += piece
        if not links.go_on():
            break
    assert len(found) <= len(data) + 4


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.sampled_from([8_000, 16_000, 44_100]), st.integers(1, 4)), max_size=9)
)
def test_frames_of_any_rate_and_channels_in_any_order(frames: list[tuple[int, int, int]]) -> None:
    mono, made = Mono(), 0
    for size, rate, channels in frames:
        made += len(mono.push(np.zeros((channels, size), np.int16), rate)) // 2
    made += len(mono.finish()) // 2
    whole = sum(size * RATE / rate for size, rate, _ in frames)
    assert abs(made - whole) <= len(frames) + 1


@given(data=st.binary(max_size=2000), start=st.sampled_from([wav()[:44], wav(kind="FLAC")[:80], b"OggS\0\2", b"ID3"]))
def test_no_bytes_are_more_than_unreadable(start: bytes, data: bytes) -> None:
    pcm, told = attempt(start + data)
    assert pcm or told[0].islower()


def test_a_short_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(wav())
    assert read_whole(path) == heard(wav())[0]
    assert read_whole(path, 100) == heard(wav())[0][:200]


# name, container, its sound, its pictures
CONTAINERS = [
    ("m4a", "mp4", "aac", None),
    ("mp4", "mp4", "aac", "mpeg4"),
    ("mov", "mov", "pcm_s16le", "mpeg4"),
    ("3gp", "3gp", "aac", "mpeg4"),
    ("webm", "webm", "libopus", None),
    ("webm with pictures", "webm", "libopus", "libvpx"),
    ("mkv", "matroska", "flac", "mpeg4"),
    ("avi", "avi", "mp2", "mpeg4"),
    ("opus", "ogg", "libopus", None),
    ("ts", "mpegts", "aac", "mpeg2video"),
]


def contained(container: str, sound: str, pictures: str | None, rate: int = 48_000) -> bytes:
    """The voice as PyAV writes it, with a grey picture 25 times a second."""
    out = io.BytesIO()
    spoken = np.clip(voice(rate) * 32767, -32768, 32767).astype(np.int16)
    with av.open(out, "w", format=container) as file:
        track = file.add_stream(sound, rate=rate, layout="mono")
        film = file.add_stream(pictures, rate=25) if pictures else None
        if film is not None:
            film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
            grey = av.VideoFrame.from_ndarray(np.full((72, 64), 128, np.uint8), format="yuv420p")
            for number in range(round(25 * SECONDS)):
                grey.pts, grey.time_base = number, Fraction(1, 25)
                file.mux(film.encode(grey))
            file.mux(film.encode(None))
        frame = av.AudioFrame.from_ndarray(spoken[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        file.mux([*track.encode(frame), *track.encode(None)])
    return out.getvalue()


@pytest.mark.parametrize(("name", "container", "sound", "pictures"), CONTAINERS, ids=[each[0] for each in CONTAINERS])
def test_the_sound_of_telephones_and_videos(name: str, container: str, sound: str, pictures: str | None) -> None:
    data = contained(container, sound, pictures)
    samples = pcm16_to_float(heard(data)[0])
    assert abs(samples.size / RATE - SECONDS) < 0.2
    assert np.corrcoef(*(_loudness(each) for each in (samples, voice())))[0, 1] > 0.9
    assert len(heard(piped(data))[0]) == 2 * samples.size


def _loudness(samples: Float32) -> Float32:
    """[40]: of each 50 ms; codecs move sound by less."""
    return np.asarray([np.abs(part).mean() for part in np.array_split(samples[: round(SECONDS * RATE)], 40)])
