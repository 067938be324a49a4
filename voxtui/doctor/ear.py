"""Listens to the default microphone for a moment and prints what it heard: `python -m voxtui.doctor.ear`.

Not in the path.  It runs in a process of its own, since a sound system may hang for ever or write to standard error,
and the doctor must do neither.  It does not know what the level means.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys

import msgspec

from shared.audio import level_dbfs, pcm16_to_float
from shared.environment import begin
from voxtui.capture.microphone import Microphone
from voxtui.doctor.facts import Sound
from voxtui.errors import SourceError

PACKETS = 35  # packets of 20 ms: 0.7 s


def listen() -> Sound:
    """Listens to the default microphone and says what it heard."""
    try:
        portaudio = importlib.import_module("sounddevice")
    except ImportError:
        return Sound(missing="package")
    except OSError:
        return Sound(missing="library")
    version = str(portaudio.get_portaudio_version()[1]).partition(",")[0].removeprefix("PortAudio ")
    device = ""
    try:
        microphone = Microphone()
        device = microphone.name
        pcm = asyncio.run(_record(microphone))
    except SourceError as error:
        return Sound(version=version, device=device, trouble=str(error))
    samples = pcm16_to_float(pcm)
    return Sound(version=version, device=device, peak=round(abs(samples).max() * 32768), level=level_dbfs(samples))


async def _record(microphone: Microphone) -> bytes:
    pcm = b""
    packets = microphone.packets()
    for _ in range(PACKETS):
        pcm += (await anext(packets)).pcm
    return pcm


def main() -> None:
    begin(os.environ)
    sys.stdout.buffer.write(msgspec.json.encode(listen()))


if __name__ == "__main__":
    main()
