"""Sound in, whatever it comes from: 20 ms packets on an absolute clock.  Step 1 of a packet's path.

A microphone, a file and silence are the same asynchronous iterator, so that all above cannot tell them apart.  Packet n
of a made source is due at `start + n * 20 ms`, whatever happened to packet n - 1: lateness never adds up, and a slow
answer does not slow the next sound (open loop).  It does not know the connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from shared.audio import PACKET, RATE, Float32, Truth, float_to_pcm16, pcm16_to_float
from shared.audio_file import AudioFile, Unreadable
from shared.latency import VoicedTruth
from voxtui.capture.blocking import in_thread
from voxtui.capture.files import open_sound, read_sound, shown, source_error

PACKET_US = PACKET * 1_000_000 // RATE
SILENT = bytes(2 * PACKET)
HURRIED = RATE // 2  # samples in a packet of a file to which nobody listens
CLIP = Path(__file__).parents[1] / "data" / "austen.flac"  # comes with the program


@dataclass(frozen=True, slots=True)
class Packet:
    """20 ms (of a hurried file more) of s16le at 16 kHz that ended at sample `end` of the source, at `captured_us`."""

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
    """`ends`: it comes to an end by itself, and does not go on until a person stops it.  `samples`: how long it was or
    will be; None as long as that is not known.  `dropped`: packets that were lost because nobody took them."""

    name: str
    ends: bool
    samples: int | None

    @property
    def truth(self) -> VoicedTruth | None: ...
    @property
    def dropped(self) -> int: ...
    def packets(self) -> AsyncIterator[Packet]: ...


class FileSource:
    """A clip played into an open microphone: after its last sample comes silence, for as long as somebody listens.

    `sound`: samples, or a file that is decoded while it is played and closed at its end.  `hurry`: as fast as packets
    are taken, for transcription of what nobody is waiting to hear.  Bound: two pieces of a file, whatever its length,
    and 4 bytes for each 10 ms of it."""

    dropped = 0

    def __init__(
        self, name: str, sound: Float32 | AudioFile, *, hurry: bool = False, clock: Clock | None = None
    ) -> None:
        self.name = name
        self.ends = True
        self.samples: int | None = None
        self.truth: Truth | None = Truth()
        self.notes: list[str] = []  # what was odd about the file
        self._file: AudioFile | None = None
        self._pcm, self._at = b"", 0
        self._hurry, self._size = hurry, HURRIED if hurry else PACKET
        self._clock = clock or WallClock()
        if isinstance(sound, AudioFile):
            self._file = sound
        else:
            self.truth.append(sound)
            self._pcm, self.samples = float_to_pcm16(sound), sound.size

    @property
    def expected(self) -> int:
        """How many samples the file may have, as long as that is not known; 0: nobody can tell."""
        return round(self._file.expected_s * RATE) if self._file is not None else 0

    def remarks(self, *, spoken: bool) -> list[str]:
        """What a person should know when the file is over: sentences without a name or a full stop.  `spoken`: there
        were words in it."""
        silent = not spoken and self.ends and bool(self.samples)
        return [*self.notes, *([f"no speech was found in {(self.samples or 0) / RATE:.1f} s of sound"] * silent)]

    async def packets(self) -> AsyncIterator[Packet]:
        """The packets, each at its time.  Raises SourceError when a file can be read no further."""
        start_us = self._clock.now_us()
        number = end = self._at = 0
        try:
            while True:
                pcm = await self._packet()
                number, end = number + 1, end + self._size
                due_us = start_us + number * PACKET_US
                if self._hurry:
                    due_us = self._clock.now_us()
                    await asyncio.sleep(0)  # the answers want their turn on the event loop
                else:
                    await self._clock.sleep_until(due_us)
                yield Packet(end, pcm.ljust(2 * self._size, b"\0"), due_us)
        finally:
            self.close()

    def close(self) -> None:
        """Closes a source that is not played, or not to its end."""
        if self._file is not None:
            self._file.close()

    async def _packet(self) -> bytes:
        while self._file is not None and len(self._pcm) - self._at < 2 * self._size:
            await self._read(self._file)
        pcm = self._pcm[self._at : self._at + 2 * self._size]
        self._at += len(pcm)
        return pcm

    async def _read(self, file: AudioFile) -> None:
        """The next piece of the file."""
        self._file = None  # a call that is given up goes on in its thread, and the file is that thread's
        try:
            piece = await in_thread(file.read)
        except (Unreadable, OSError) as error:
            raise source_error(Path(self.name), error) from None
        self.notes = file.notes
        if not piece:
            self.samples = file.samples
            file.close()
            return
        self._file = file
        self._pcm, self._at = self._pcm[self._at :] + piece, 0
        if self.truth is not None:
            self.truth.append(pcm16_to_float(piece))


class Silence(FileSource):
    """Silence, which a client without a microphone sends."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__("silence", np.zeros(0, np.float32), clock=clock)
        self.ends = False
        self.samples = None
        self.truth = None


def open_file(path: Path, *, hurry: bool = False) -> FileSource:
    """Opens a sound file of any common kind, a pipe, or `-`, and waits for its first sound.  Raises SourceError."""
    return FileSource(shown(Path(path.name or path)), open_sound(path), hurry=hurry)


def read_clip(path: Path) -> Float32:
    """Reads all of a short file as float32 [n] at 16 kHz mono.  Raises SourceError."""
    return pcm16_to_float(read_sound(path))
