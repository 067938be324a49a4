"""Sound in, whatever it comes from: 20 ms packets on an absolute clock.  Step 1 of a frame's path.

A microphone, a file and silence are the same asynchronous iterator, so that all above cannot tell them apart.  Packet n
of a made source is due at `start + n * 20 ms`, whatever happened to packet n - 1: lateness never adds up, and a slow
answer does not slow the next sound (open loop).  It does not know the connection.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from shared.audio import PACKET, RATE, Float32, Truth, float_to_pcm16, resample
from shared.latency import VoicedTruth
from voxtui.safe_text import safe_line

PACKET_US = PACKET * 1_000_000 // RATE
SILENT = bytes(2 * PACKET)
CLIP = Path(__file__).parent / "data" / "austen.flac"  # comes with the program


class SourceError(Exception):
    """There is no sound to be had from here; the text is one sentence for people."""


@dataclass(frozen=True, slots=True)
class Packet:
    """20 ms of s16le at 16 kHz that ended, as sample position of the source, at `end`, at `captured_us`."""

    end: int
    pcm: bytes
    captured_us: int


class Clock(Protocol):
    """Time as a source needs it; tests bring their own."""

    def now_us(self) -> int: ...
    async def sleep_until(self, time_us: int) -> None: ...


class WallClock:
    """The monotonic clock of this process."""

    def now_us(self) -> int:
        return time.monotonic_ns() // 1000

    async def sleep_until(self, time_us: int) -> None:
        await asyncio.sleep(max(0, time_us - self.now_us()) / 1_000_000)


class Source(Protocol):
    """`samples`: how long the sound is that was asked for; None for a source that only a person ends.

    `dropped`: packets that were lost because nobody took them."""

    name: str
    samples: int | None

    @property
    def truth(self) -> VoicedTruth | None: ...
    @property
    def dropped(self) -> int: ...
    def packets(self) -> AsyncIterator[Packet]: ...


class FileSource:
    """A clip played into an open microphone: after its last sample comes silence, for as long as somebody listens.

    `hurry`: as fast as packets are taken, for transcription of what nobody is waiting to hear."""

    dropped = 0

    def __init__(self, name: str, clip: Float32, *, hurry: bool = False, clock: Clock | None = None) -> None:
        self.name = name
        self.samples: int | None = clip.size
        self.truth: Truth | None = Truth(clip)
        self._pcm = float_to_pcm16(clip)
        self._hurry = hurry
        self._clock = clock or WallClock()

    async def packets(self) -> AsyncIterator[Packet]:
        start_us = self._clock.now_us()
        number = 0
        while True:
            pcm = self._pcm[number * 2 * PACKET : (number + 1) * 2 * PACKET]
            number += 1
            due_us = start_us + number * PACKET_US
            if self._hurry:
                due_us = self._clock.now_us()
                await asyncio.sleep(0)  # the answers want their turn on the event loop
            else:
                await self._clock.sleep_until(due_us)
            yield Packet(number * PACKET, pcm.ljust(2 * PACKET, b"\0"), due_us)


class Silence(FileSource):
    """Nobody speaks: what a client without a microphone sends."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__("silence", np.zeros(0, np.float32), clock=clock)
        self.samples = None
        self.truth = None


def read_clip(path: Path) -> Float32:
    """A sound file as float32 [n] at 16 kHz mono: wav, flac, mp3, ogg, whatever libsndfile reads."""
    soundfile = importlib.import_module("soundfile")  # here: the screen with a microphone never needs it
    if not path.is_file():
        raise SourceError(f"{path}: there is no such file.")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        reason = safe_line(
            str(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error)
        ).rstrip(".")
        raise SourceError(f"{path}: cannot be read as sound: {reason}.") from None
    return resample(np.ascontiguousarray(samples.mean(axis=1), np.float32), int(rate))
