"""Sound files as they are met outside: cut short, joined, with headers that lie.

`python -m tests.support.odd_files FOLDER` writes them all; what only ffmpeg can make is left out where there is none.

Each holds `SECONDS` of a voice, or as many as it says itself.
"""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from shared.audio import RATE, Float32
from tests.support.speech import clip

FFMPEG = shutil.which("ffmpeg")
SECONDS = 2.0
CHAINED = 3


@dataclass(frozen=True, slots=True)
class Odd:
    """`seconds`: how much sound is in it; None: as ffmpeg finds.  `told`: what a reader must say of it, a regex."""

    name: str
    data: bytes
    seconds: float | None = SECONDS
    told: str = ""


@cache
def voice(rate: int = RATE, seconds: float = SECONDS) -> Float32:
    """Real speech, [n]."""
    said = clip("librivox_austen_0880").samples()
    at = np.arange(round(seconds * rate)) * RATE / rate
    return np.interp(at, np.arange(said.size), said).astype(np.float32)


def wav(samples: Float32 | None = None, rate: int = RATE, subtype: str = "PCM_16", kind: str = "WAV") -> bytes:
    written = io.BytesIO()
    soundfile.write(written, voice(rate) if samples is None else samples, rate, format=kind, subtype=subtype)
    return written.getvalue()


def coded(*options: str, kind: str, rate: int = RATE, source: bytes | None = None) -> bytes:
    """The voice as ffmpeg writes it, with its output in a pipe that cannot seek."""
    assert FFMPEG is not None
    command = [FFMPEG, "-v", "error", "-i", "-", *options, "-f", kind, "-"]
    return subprocess.run(command, input=source or wav(rate=rate), capture_output=True, check=True).stdout


def _patched(data: bytes, size: int) -> bytes:
    """With another size of its chunk `data`."""
    at = data.index(b"data") + 4
    return data[:at] + struct.pack("<I", size) + data[at + 4 :]


def _chunk(name: bytes, body: bytes, *, pad: bool = True) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2 and pad)


def _riff(*chunks: bytes) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def lengths_of_wav() -> Iterator[Odd]:
    whole = wav()
    size = len(whole) - whole.index(b"data") - 8
    for told in (0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000):
        yield Odd(f"size-{told:x}.wav", _patched(whole, told))
    for told in (2, 1000, size // 2, size - RATE):
        yield Odd(f"size-too-small-{told}.wav", _patched(whole, told), told="wrong length")
    for told in (size + 2 * RATE, 10**8):
        yield Odd(f"size-too-large-{told}.wav", _patched(whole, told), told="cut short")
    for share in (0.9, 0.5):
        yield Odd(f"cut-{share}.wav", whole[: int(len(whole) * share)], SECONDS * share, told="cut short")
    yield Odd("joined.wav", whole * 2, told="another WAV file follows")
    yield Odd("rf64.wav", wav(kind="RF64"))
    yield Odd("rf64-size-unknown.wav", _rf64_of_a_recorder(whole))


def _rf64_of_a_recorder(whole: bytes) -> bytes:
    sizes = _chunk(b"ds64", struct.pack("<QQQI", 0, 0, 0, 0))
    return b"RF64\xff\xff\xff\xffWAVE" + sizes + _patched(whole, 0xFFFFFFFF)[12:]


def chunks_of_wav() -> Iterator[Odd]:
    whole = wav()
    form, sound = whole[12:36], whole[whole.index(b"data") + 8 :]
    note = _chunk(b"LIST", b"INFOICMT" + struct.pack("<I", 5) + b"odd!\0", pad=True)
    data = _chunk(b"data", sound)
    yield Odd("list-before.wav", _riff(note, form, data))
    yield Odd("list-between.wav", _riff(form, note, data))
    yield Odd("sound-before-format.wav", _riff(data, form), None)
    yield Odd("list-behind.wav", _riff(form, data, note))
    yield Odd("long-list-behind.wav", _riff(form, data, _chunk(b"id3 ", bytes(range(256)) * 400)))
    yield Odd("odd-chunk-with-padding.wav", _riff(form, _chunk(b"junk", b"abc"), data))
    yield Odd("eight-bit-odd.wav", _riff(_eight_bit(), _chunk(b"data", _unsigned()[:-1]), note), SECONDS)
    yield Odd("eight-bit-odd-unpadded.wav", _riff(_eight_bit(), _chunk(b"data", _unsigned()[:-1], pad=False), note))
    yield Odd("tag-behind.wav", whole + b"TAG" + b"a title".ljust(125, b"\0"))
    yield Odd("riff-size-wrong.wav", whole[:4] + struct.pack("<I", 36) + whole[8:])


def _eight_bit() -> bytes:
    return _chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, RATE, 1, 8))


def _unsigned() -> bytes:
    return np.clip(np.rint(voice() * 127 + 128), 0, 255).astype(np.uint8).tobytes()


def samples_of_wav() -> Iterator[Odd]:
    for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM"):
        yield Odd(f"{subtype.lower()}.wav", wav(subtype=subtype))
        yield Odd(f"{subtype.lower()}-8k.wav", wav(subtype=subtype, rate=8_000))
    for subtype in ("PCM_16", "PCM_24", "FLOAT"):
        yield Odd(f"extensible-{subtype.lower()}.wav", wav(subtype=subtype, kind="WAVEX"))
    for channels in (1, 2, 3, 6, 8, 24):
        yield Odd(f"{channels}-channels.wav", wav(np.repeat(voice()[:, None], channels, axis=1)))
        yield Odd(f"{channels}-channels.flac" if channels <= 8 else f"{channels}-channels-24-bit.wav", _many(channels))
    for rate in (4_000, 8_000, 11_025, 12_000, 22_050, 44_100, 48_000, 96_000, 192_000):
        yield Odd(f"{rate}.wav", wav(rate=rate))


def _many(channels: int) -> bytes:
    samples = np.repeat(voice()[:, None], channels, axis=1)
    return wav(samples, kind="FLAC") if channels <= 8 else wav(samples, subtype="PCM_24")


def values() -> Iterator[Odd]:
    """Floats that are no sound, or that count in other steps; channels that cancel each other."""
    for name, value in (("nan", np.nan), ("inf", np.inf), ("minus-inf", -np.inf)):
        for count in (1, RATE // 10):
            samples = voice().copy()
            samples[5_000 : 5_000 + count] = value
            yield Odd(f"{count}-{name}.wav", wav(samples, subtype="FLOAT"), told=f"{count} of its samples are NaN")
    beyond = voice().astype(np.float64)
    beyond[7_000] = 1e300
    yield Odd("double-beyond.wav", wav(beyond, subtype="DOUBLE"), told="NaN or infinite")  # type: ignore[arg-type]
    for bits in (16, 24, 32):
        scaled = voice() * np.float32(2 ** (bits - 1))
        for name, those in (("whole", np.rint(scaled)), ("any", scaled)):
            for subtype in ("FLOAT", "DOUBLE"):
                told = "floats are in the range of"
                yield Odd(f"{subtype.lower()}-{bits}-{name}.wav", wav(those, subtype=subtype), told=told)
    for gain in (-1.0, -0.9, -0.7):
        stereo = np.stack([voice(), gain * voice()], axis=1)
        for kind, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_24")):
            yield Odd(
                f"opposite{gain}.{kind.lower()}", wav(stereo, subtype=subtype, kind=kind), told="cancel each other"
            )
    pairs = np.stack([voice(), -voice(), voice(), -voice()], axis=1)
    yield Odd("two-opposite-pairs.wav", wav(pairs), told="cancel each other")


def no_sound() -> Iterator[Odd]:
    """What cannot be read: `seconds` is 0, and `told` is in the error, or is said of a file with nothing in it."""
    whole = wav()
    head = whole[: whole.index(b"data") + 8]
    yield Odd("empty.wav", b"", 0, "it is empty")
    yield Odd("text.wav", b"hello, this is no sound\n" * 100, 0, "not a sound file")
    yield Odd("page.mp3", b"<!DOCTYPE html><html><body>404</body></html>", 0, "not a sound file")
    yield Odd("playlist.m3u8", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", 0, "not a sound file")
    yield Odd("list.txt", b"ffconcat version 1.0\nfile /etc/passwd\n", 0, "not a sound file")
    yield Odd("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(1000), 0, "not a sound file")
    yield Odd("noise.ogg", b"OggS" + bytes(range(256)) * 40, 0, "")
    yield Odd("head.wav", head, 0, "no sound in it")
    yield Odd("head-size-0.wav", _patched(head, 0), 0, "no sound in it")
    yield Odd("half-a-head.wav", whole[:20], 0, "")
    yield Odd("head.flac", wav(kind="FLAC")[:60], 0, "")


def containers() -> Iterator[Odd]:
    """Made by libsndfile."""
    for kind in ("AIFF", "AU", "CAF", "W64", "FLAC", "MP3", "OGG"):
        subtype = {"MP3": "MPEG_LAYER_III", "OGG": "VORBIS"}.get(kind, "PCM_16")
        yield Odd(f"whole.{kind.lower()}", wav(kind=kind, subtype=subtype), SECONDS if kind != "MP3" else None)
        yield Odd(f"whole-44k.{kind.lower()}", wav(rate=44_100, kind=kind, subtype=subtype), None)
    flac, aiff = wav(kind="FLAC"), wav(kind="AIFF")
    for share in (0.4, 0.8):
        yield Odd(f"cut-{share}.flac", flac[: int(len(flac) * share)], None, "cut short")
        yield Odd(f"cut-{share}.aiff", aiff[: int(len(aiff) * share)], None, "cut short")
    unknown = bytearray(flac)
    unknown[21] &= 0xF0  # the 36 bits of STREAMINFO that count the samples
    unknown[22:26] = bytes(4)
    yield Odd("unknown-length.flac", bytes(unknown))
    yield Odd("joined.flac", flac * 2, 2 * SECONDS)
    au = wav(kind="AU")
    yield Odd("unknown-length.au", au[:8] + b"\xff" * 4 + au[12:])


def coded_by_ffmpeg() -> Iterator[Odd]:
    """mp3, Ogg, mp4 and what else needs an encoder."""
    mp3 = coded("-c:a", "libmp3lame", "-id3v2_version", "4", "-metadata", "title=odd", kind="mp3")
    slow = coded("-c:a", "libmp3lame", "-b:a", "32k", kind="mp3", rate=44_100)
    lying = bytearray(mp3)
    for mark in (b"Xing", b"Info"):
        if (at := mp3.find(mark)) > 0:
            lying[at + 8 : at + 12] = struct.pack(">I", 77_777)  # frames
    yield Odd("id3.mp3", mp3, None)
    yield Odd("xing-lies.mp3", bytes(lying), None)
    yield Odd("id3v1.mp3", mp3 + b"TAG" + b"a title".ljust(125, b"\0"), None)
    yield Odd("ape.mp3", mp3 + _ape(), None)
    yield Odd("ape-between.mp3", mp3 + _ape() + mp3, None)
    yield Odd("joined.mp3", mp3 * 3, None)
    yield Odd("joined-with-another-rate.mp3", mp3 + slow, None)
    yield Odd("cut.mp3", mp3[: len(mp3) // 2], None)
    opus = coded("-c:a", "libopus", kind="ogg")
    vorbis = coded("-c:a", "libvorbis", kind="ogg")
    wide = coded("-c:a", "libvorbis", "-ac", "2", kind="ogg", rate=48_000)
    yield Odd("chained.opus", opus * CHAINED, CHAINED * SECONDS)
    yield Odd("chained.ogg", vorbis * CHAINED, CHAINED * SECONDS)
    yield Odd("chained-with-another-rate.ogg", vorbis + wide, 2 * SECONDS)
    yield Odd("chained-with-another-codec.ogg", vorbis + opus + vorbis, 3 * SECONDS)
    yield Odd("no-end.opus", opus[: opus.rindex(b"OggS")], None, "no end mark")
    yield Odd("cut.opus", opus[: len(opus) * 2 // 3], None, "no end mark")
    yield Odd("cut.ogg", vorbis[: len(vorbis) * 2 // 3], None, "no end mark")
    yield Odd("chained-and-cut.opus", opus + opus[: opus.rindex(b"OggS")], None, "no end mark")
    for kind, codec in (("webm", "libopus"), ("matroska", "libvorbis"), ("caf", "pcm_s16le"), ("adts", "aac")):
        yield Odd(f"{codec}.{kind}", coded("-c:a", codec, kind=kind), None)
    for name, flags in (("streamed.m4a", "frag_keyframe+empty_moov"), ("streamed-late.mp4", "frag_keyframe")):
        yield Odd(name, coded("-c:a", "aac", "-movflags", flags, kind="mp4"), None)
    yield Odd("alac.m4a", coded("-c:a", "alac", "-movflags", "frag_keyframe+empty_moov", kind="mp4"), None)
    yield Odd("streamed.wav", coded(kind="wav"))


def _ape() -> bytes:
    """An APEv2 tag with one item."""
    item = struct.pack("<II", 3, 0) + b"Title\0odd"
    frame = b"APETAGEX" + struct.pack("<III", 2000, len(item) + 32, 1)
    return frame + struct.pack("<I", 0xA0000000) + bytes(8) + item + frame + struct.pack("<I", 0x80000000) + bytes(8)


@cache
def corpus() -> tuple[Odd, ...]:
    """All of them."""
    makers: list[Any] = [lengths_of_wav, chunks_of_wav, samples_of_wav, values, no_sound, containers]
    if FFMPEG:
        makers.append(coded_by_ffmpeg)
    return tuple(odd for maker in makers for odd in maker())


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for each in corpus():
        (folder / each.name).write_bytes(each.data)
