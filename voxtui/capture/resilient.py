"""A source that outlives its microphone: sound while there is some, else silence.  Step 1.

A microphone that is missing, busy, unplugged or stuck is told in one sentence and tried again until it is back; the
session above goes on, and a turn that was being spoken ends in silence.  It does not know PortAudio, nor who listens.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import cast

from shared.audio import Truth
from voxtui.capture.sources import SILENT, Clock, Packet, Silence, Source
from voxtui.errors import SourceError

RETRY = 100  # packets of silence between two tries: 2 s
STALL_S = 5.0  # a device that gives nothing for so long is stuck; one that wakes up has been seen to take two seconds
MUTE = 150  # packets of nothing but zeros, 3 s: no room is so quiet, so the device gives no sound
NO_SOUND = (
    "The microphone {!r} gives nothing but zeros: it is muted, or this program may not use it (macOS: System Settings, "
    "Privacy & Security, Microphone; let the terminal in)."
)

Opener = Callable[[], Source]


class Ear:
    """A source that never ends and never fails.  `tell` is given a sentence for each trouble."""

    ends = False
    samples: int | None = None
    truth: Truth | None = None

    def __init__(self, opener: Opener, tell: Callable[[str], None], clock: Clock | None = None) -> None:
        self.name = ""
        self._opener, self._tell, self._clock = opener, tell, clock
        self._source: Source | None = None
        self._dropped = 0  # packets dropped by the sources before this one
        self._complaint = ""  # the last complaint, until there is sound again
        self._zeros = 0

    @property
    def dropped(self) -> int:
        return self._dropped + (self._source.dropped if self._source is not None else 0)

    def listen_to(self, opener: Opener) -> None:
        """Listens to another microphone from the next packet on."""
        self._opener, self._complaint = opener, ""

    async def packets(self) -> AsyncIterator[Packet]:
        while True:
            opener = self._opener
            try:
                self._source = await asyncio.to_thread(opener)
                self.name, self._zeros = self._source.name, 0
                # What is iterated is a generator, which holds the device until it is closed.
                packets = cast("AsyncGenerator[Packet, None]", self._source.packets())
                async with contextlib.aclosing(packets):
                    while self._opener is opener:
                        async with asyncio.timeout(STALL_S):
                            packet = await anext(packets)
                        self._heard(packet)
                        yield packet
                continue
            except TimeoutError:
                self._complain(f"The microphone {self.name!r} has stopped giving sound.")
            except SourceError as error:
                self._complain(str(error))
            self._dropped, self._source, self.name = self.dropped, None, ""
            async for packet in self._silence(opener):
                yield packet

    async def _silence(self, opener: Opener) -> AsyncIterator[Packet]:
        """Gives silence until the next try."""
        count = 0
        async for packet in Silence(self._clock).packets():
            yield packet
            count += 1
            if count == RETRY or self._opener is not opener:
                return

    def _complain(self, sentence: str) -> None:
        """Tells of a trouble once, however often it is tried."""
        if sentence != self._complaint:
            self._complaint = sentence
            self._tell(f"{sentence}  It is tried again until it works.")

    def _heard(self, packet: Packet) -> None:
        if packet.pcm != SILENT:
            self._zeros = 0
            if self._complaint:
                self._complaint = ""
                self._tell(f"The microphone {self.name!r} is heard again.")
            return
        self._zeros += 1
        if self._zeros == MUTE and not self._complaint:
            self._complaint = NO_SOUND.format(self.name)
            self._tell(self._complaint)
