"""The sound card, through PortAudio.  Step 1 of a packet's path.

PortAudio is loaded when a microphone is wanted and not before: without it, or without a device, everything else works.
It does not know the connection.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from shared.audio import PACKET, RATE, Decoder, Truth
from shared.safe_text import safe_line
from voxtui.capture.sources import Packet
from voxtui.errors import SourceError

HELD = 250  # blocks of 20 ms that may wait for a slow connection: 5 s; beyond it the oldest goes and is counted

_in_use: set[Microphone] = set()  # microphones that hold a device

NONE_HERE = "No microphone is known to the sound system of this machine."


@dataclass(frozen=True, slots=True)
class InputDevice:
    """One input of the sound system."""

    index: int
    name: str
    channels: int
    rate: int  # Hz
    default: bool


def inputs() -> list[InputDevice]:
    """Lists every device that can record.  Raises SourceError with the reason if there is none."""
    sound = _portaudio()
    try:
        found = sound.query_devices()
        chosen = sound.default.device[0]
    except sound.PortAudioError as error:
        raise SourceError(f"The sound system does not answer: {_reason(error)}.") from None
    devices = [
        InputDevice(
            int(at["index"]),
            safe_line(str(at["name"])),
            int(at["max_input_channels"]),
            int(at["default_samplerate"]),
            int(at["index"]) == chosen,
        )
        for at in found
        if at["max_input_channels"] > 0
    ]
    if not devices:
        raise SourceError(NONE_HERE)
    return devices


def look_again() -> None:
    """Lets PortAudio see the devices that there are now; it cannot while one is open."""
    sound = _portaudio()
    if not _in_use:
        sound._terminate()
        sound._initialize()


def _portaudio() -> Any:
    try:
        return importlib.import_module("sounddevice")
    except ImportError:
        raise SourceError("The Python package sounddevice is missing: `pip install sounddevice`.") from None
    except OSError:
        raise SourceError(
            "PortAudio is missing, which reads the microphone: `apt install libportaudio2` (Debian, Ubuntu), "
            "`dnf install portaudio` (Fedora)."
        ) from None


def _reason(error: Exception) -> str:
    """PortAudio's own sentence about an error, without the number that it puts behind."""
    return safe_line(str(error.args[0] if error.args else error)).removesuffix(".")


class Microphone:
    """An input device as a source.  Raises SourceError.

    PortAudio's thread puts blocks into a deque of HELD (at the bound the oldest goes and is counted as dropped) and
    wakes the event loop only if it is not yet woken, so that a slow loop piles nothing up."""

    ends = False
    samples: int | None = None
    truth: Truth | None = None

    def __init__(self, device: str | int | None = None) -> None:
        self._sound = _portaudio()
        self._device = device
        self._blocks: deque[tuple[bytes, int]] = deque(maxlen=HELD)
        self._lost = False
        self.dropped = 0
        about = self._about()
        self.name = safe_line(str(about["name"]))
        self._rate = self._rate_of(int(about["default_samplerate"]))

    def _about(self) -> Any:
        """The device as PortAudio knows it.  PortAudio looks once: what was plugged in since needs another look."""
        try:
            return self._sound.query_devices(self._device, "input")
        except (self._sound.PortAudioError, ValueError):
            look_again()
        try:
            return self._sound.query_devices(self._device, "input")
        except (self._sound.PortAudioError, ValueError) as error:
            if self._device is None:
                raise SourceError(NONE_HERE) from None
            raise SourceError(f"No microphone {self._device!r} can be opened: {_reason(error)}.") from None

    def _rate_of(self, usual: int) -> int:
        """The rate to record at: 16 kHz where the device can, else its own rate, which is resampled here."""
        try:
            self._sound.check_input_settings(device=self._device, channels=1, dtype="int16", samplerate=RATE)
        except self._sound.PortAudioError:
            return usual
        return RATE

    async def packets(self) -> AsyncIterator[Packet]:
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()

        def block(data: Any, frames: int, when: Any, status: Any) -> None:
            """Takes a block of samples, on PortAudio's thread."""
            now_us = time.monotonic_ns() // 1000
            age_s = when.currentTime - when.inputBufferAdcTime - frames / self._rate
            sane = when.inputBufferAdcTime > 0 and 0 <= age_s < 1  # some drivers tell no time
            self.dropped += len(self._blocks) == HELD
            self._blocks.append((bytes(data), now_us - round(age_s * 1_000_000) if sane else now_us))
            if not arrived.is_set():
                loop.call_soon_threadsafe(arrived.set)

        def ended() -> None:
            """Told by PortAudio, which stops by itself when a device is unplugged."""
            self._lost = True
            loop.call_soon_threadsafe(arrived.set)

        stream = self._open(block, ended)
        _in_use.add(self)
        cutter = Cutter(self._rate)
        try:
            while True:
                await arrived.wait()
                arrived.clear()
                while self._blocks:
                    for packet in cutter.cut(*self._blocks.popleft()):
                        yield packet
                if self._lost:
                    raise SourceError(f"The microphone {self.name!r} has gone.")
        finally:
            self._lost = True
            stream.abort(ignore_errors=True)
            stream.close(ignore_errors=True)
            _in_use.discard(self)

    def _open(self, block: Any, ended: Any) -> Any:
        try:
            stream = self._sound.RawInputStream(
                samplerate=self._rate,
                blocksize=self._rate // 50,
                device=self._device,
                channels=1,
                dtype="int16",
                latency="low",
                callback=block,
                finished_callback=ended,
            )
            stream.start()
        except (self._sound.PortAudioError, ValueError) as error:
            reason = _reason(error)
            busy = "; does another program use it?" if "unavailable" in reason.lower() else "."
            raise SourceError(f"The microphone {self.name!r} cannot be opened: {reason}{busy}") from None
        return stream


class Cutter:
    """Cuts blocks of any length and rate into packets of 20 ms at 16 kHz, each with the time when its end was
    captured."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._decoder = Decoder("audio/pcm", rate)
        self._taken = 0  # samples at `rate`
        self._end = 0  # samples at 16 kHz that have left in packets
        self._rest = bytearray()

    def cut(self, block: bytes, captured_us: int) -> list[Packet]:
        self._taken += len(block) // 2
        self._rest += self._decoder.decode(block)
        packets = []
        while len(self._rest) >= 2 * PACKET:
            self._end += PACKET
            late_us = self._taken * 1_000_000 // self._rate - self._end * 1_000_000 // RATE
            packets.append(Packet(self._end, bytes(self._rest[: 2 * PACKET]), captured_us - max(0, late_us)))
            del self._rest[: 2 * PACKET]
        return packets
