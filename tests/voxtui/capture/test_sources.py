"""voxtui.capture.sources and voxtui.capture.microphone: an absolute clock, files of every kind, a sound card that is
not there."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from shared.audio import PACKET, RATE, Float32, float_to_pcm16
from tests.support.fakes import FakeClock
from voxtui.capture import microphone
from voxtui.capture.microphone import HELD, Cutter, Microphone
from voxtui.capture.sources import FileSource, Packet, Silence, Source, read_clip
from voxtui.commands.devices import device_list
from voxtui.errors import SourceError


def tone(seconds: float, rate: int = RATE) -> Float32:
    return (0.4 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


async def take(source: Source, count: int) -> list[Packet]:
    found: list[Packet] = []
    async for packet in source.packets():
        found.append(packet)
        if len(found) == count:
            break
    return found


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_clip_and_then_silence() -> None:
    """The last packet of the clip is filled up; what follows is silence for as long as one asks."""
    clip = tone(0.05)
    found = await take(FileSource("x", clip, clock=FakeClock()), 5)
    assert b"".join(packet.pcm for packet in found) == float_to_pcm16(clip) + bytes(2 * (5 * PACKET - clip.size))
    assert [packet.end for packet in found] == [PACKET * n for n in range(1, 6)]


async def test_pacing_is_absolute() -> None:
    """A consumer that dawdles makes one packet late and not the ones after it."""
    clock = FakeClock(1_000_000)
    found = []
    async for packet in FileSource("x", tone(1), clock=clock).packets():
        found.append(packet.captured_us)
        if len(found) == 3:
            clock.time_us += 50_000
        if len(found) == 6:
            break
    due = [1_000_000 + 20_000 * n for n in range(1, 7)]
    assert found == due
    assert clock.slept == due


async def test_a_hurried_clip_waits_for_nothing() -> None:
    clock = FakeClock()
    await take(FileSource("x", tone(1), hurry=True, clock=clock), 60)
    assert clock.slept == []


async def test_silence() -> None:
    source = Silence(FakeClock())
    assert (source.samples, source.truth) == (None, None)
    assert {packet.pcm for packet in await take(source, 3)} == {bytes(2 * PACKET)}


@pytest.mark.parametrize(
    ("suffix", "rate", "channels"), [("wav", 16_000, 1), ("flac", 44_100, 2), ("ogg", 48_000, 1), ("mp3", 24_000, 2)]
)
def test_every_kind_of_file(tmp_path: Path, suffix: str, rate: int, channels: int) -> None:
    path = tmp_path / f"clip.{suffix}"
    soundfile.write(path, np.repeat(tone(0.5, rate)[:, None], channels, axis=1), rate)
    clip = read_clip(path)
    assert abs(clip.size - RATE // 2) < RATE // 10
    assert float(np.abs(clip[2000:6000]).max()) == pytest.approx(0.4, abs=0.05)


def test_what_is_no_sound(tmp_path: Path) -> None:
    text = tmp_path / "x.wav"
    text.write_text("hello")
    with pytest.raises(SourceError, match="cannot be read as sound"):
        read_clip(text)
    with pytest.raises(SourceError, match="no such file"):
        read_clip(tmp_path / "none.wav")
    with pytest.raises(SourceError, match="this is a folder"):
        read_clip(tmp_path)


# ── the sound card ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_blocks_become_packets_with_their_times(rate: int) -> None:
    """Whatever the card's rate, packet n ends at sample 320 n, and was captured when that sample was."""
    cutter, found = Cutter(rate), []
    pcm = float_to_pcm16(tone(1, rate))
    size = rate // 50
    for n in range(50):
        found += cutter.cut(pcm[2 * n * size : 2 * (n + 1) * size], (n + 1) * 20_000)
    assert [packet.end for packet in found] == [PACKET * n for n in range(1, len(found) + 1)]
    assert len(found) >= 45
    assert all(abs(packet.captured_us - n * 20_000) <= 200 for n, packet in enumerate(found, 1))


class PortAudioError(Exception):
    pass


class FakePortAudio:
    """The part of sounddevice that is used."""

    PortAudioError = PortAudioError
    default = SimpleNamespace(device=(1, 0))

    def __init__(self, *, only: int | None = None, devices: bool = True) -> None:
        self.only, self.devices = only, devices
        self.callback: Callable[..., None] = lambda *_: None
        self.finished: Callable[[], None] = lambda: None
        self.closed = False
        self.busy = False
        self.plugged = False  # seen only after another look

    def _terminate(self) -> None:
        pass

    def _initialize(self) -> None:
        self.devices = self.devices or self.plugged

    def query_devices(self, device: object = None, kind: str | None = None) -> Any:
        if not self.devices:
            if kind:
                raise PortAudioError("Error querying device -1")
            return []
        card = {"index": 1, "name": "Cam\x1b[2Jera", "max_input_channels": 2, "default_samplerate": 48_000.0}
        if device == "nothing":
            raise ValueError("No input device matching 'nothing'")
        return card if kind else [{**card, "index": 0, "max_input_channels": 0}, card]

    def check_input_settings(self, *, samplerate: int, **_: object) -> None:
        if self.only not in (None, samplerate):
            raise PortAudioError("Invalid sample rate", -9997)

    def RawInputStream(self, **options: Any) -> FakePortAudio:  # noqa: N802
        self.options, self.callback, self.finished = options, options["callback"], options["finished_callback"]
        return self

    def start(self) -> None:
        if self.busy:
            raise PortAudioError("Device unavailable", -9985)

    def abort(self, **_: object) -> None:
        self.finished()

    def close(self, **_: object) -> None:
        self.closed = True

    def hear(self, blocks: int, value: int = 1) -> None:
        frames = self.options["blocksize"]
        when = SimpleNamespace(currentTime=0.0, inputBufferAdcTime=0.0)
        for _ in range(blocks):
            self.callback(np.full(frames, value, "<i2").tobytes(), frames, when, None)


def card(monkeypatch: pytest.MonkeyPatch, fake: FakePortAudio) -> FakePortAudio:
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    return fake


async def first_of(source: Microphone, fake: FakePortAudio, blocks: int) -> list[Packet]:
    """Starts the source, lets the card hear something, takes what comes at once."""
    packets = source.packets()
    waiting = asyncio.ensure_future(anext(packets))
    await asyncio.sleep(0)
    fake.hear(blocks)
    found = [await waiting]
    while len(found) < min(blocks, HELD):
        found.append(await anext(packets))
    await packets.aclose()
    return found


async def test_a_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = card(monkeypatch, FakePortAudio())
    source = Microphone()
    found = await first_of(source, fake, 3)
    assert [packet.pcm for packet in found] == [np.full(PACKET, 1, "<i2").tobytes()] * 3
    assert (source.name, source.dropped, fake.closed) == ("Camera", 0, True)
    assert fake.options["samplerate"] == RATE


async def test_a_card_with_a_rate_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = card(monkeypatch, FakePortAudio(only=48_000))
    source = Microphone(1)
    packets = source.packets()
    waiting = asyncio.ensure_future(anext(packets))
    await asyncio.sleep(0)
    fake.hear(10, value=1000)
    assert len((await waiting).pcm) == 2 * PACKET
    assert (fake.options["samplerate"], fake.options["blocksize"]) == (48_000, 960)
    await packets.aclose()


async def test_nobody_takes_the_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest block is dropped, and counted."""
    fake = card(monkeypatch, FakePortAudio())
    source = Microphone()
    await first_of(source, fake, HELD + 7)
    assert source.dropped == 7


async def test_the_card_is_unplugged(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = card(monkeypatch, FakePortAudio())
    packets = Microphone().packets()
    waiting = asyncio.ensure_future(anext(packets))
    await asyncio.sleep(0)
    fake.finished()
    with pytest.raises(SourceError, match="has gone"):
        await waiting


def test_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, FakePortAudio(devices=False))
    for attempt in (Microphone, device_list):
        with pytest.raises(SourceError, match="No microphone is known"):
            attempt()


def test_a_card_that_was_plugged_in_since(monkeypatch: pytest.MonkeyPatch) -> None:
    """PortAudio looks for devices once; a failed request makes it look again."""
    sound = FakePortAudio(devices=False)
    sound.plugged = True
    card(monkeypatch, sound)
    assert "era" in Microphone().name


async def test_a_card_that_another_program_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = FakePortAudio()
    sound.busy = True
    card(monkeypatch, sound)
    with pytest.raises(SourceError, match="Device unavailable; does another program use it"):
        await anext(aiter(Microphone().packets()))


def test_an_unknown_card(monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, FakePortAudio())
    with pytest.raises(SourceError, match="No microphone 'nothing' can be opened: No input device"):
        Microphone("nothing")


@pytest.mark.parametrize(
    ("error", "words"), [(OSError("PortAudio library not found"), "libportaudio2"), (ImportError(), "pip install")]
)
def test_no_portaudio(monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    def missing(name: str) -> None:
        raise error

    monkeypatch.setattr(microphone.importlib, "import_module", missing)
    with pytest.raises(SourceError, match=words):
        Microphone()


def test_the_list_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, FakePortAudio())
    assert device_list() == "*   1  Camera  (2 channels, 48000 Hz)"
