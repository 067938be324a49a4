"""One session from its first packet to its last word: a source into a client, events out to whoever shows them.

Steps 1, 2 and 12 of a frame's path meet here, once, for the screen, the plain mode and the headless tools.  It does not
know how anything is shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from shared.audio import level_dbfs, pcm16_to_float, to_samples
from shared.events import (
    AudioCommit,
    Content,
    Error,
    ItemCreate,
    ItemDraft,
    ResponseCreate,
    ServerEvent,
    SessionCreated,
)
from voxtui.client import ClientError, RealtimeClient, now_us
from voxtui.ending import Ending
from voxtui.meter import Meter
from voxtui.sources import SILENT, Source
from voxtui.transcript import Connected, Dropped, Event

QUIET_S = 4.0  # nothing has happened for so long after the clip: what it still holds is no speech
STUCK_S = 120.0  # something was begun and nothing has happened for so long: it will not be finished
TAIL_MS = 1000  # silence sent behind a hurried clip, beyond what ends a turn
NOTHING_LEFT = "input_audio_buffer_commit_empty"


class Run:
    """`tell` is given every event, the server's and the client's own; `level`, how loud each packet is, in dBFS.

    `hurry`: the source does not keep time, so how far the server has come can only be asked: by a commit at the end."""

    def __init__(
        self,
        client: RealtimeClient,
        source: Source,
        tell: Callable[[Event], None],
        *,
        level: Callable[[float], None] | None = None,
        hurry: bool = False,
        silence_ms: int = 0,
    ) -> None:
        self.meter = Meter(client.clock, source.truth)
        self.muted = False
        self._client, self._source, self._tell, self._level = client, source, tell, level
        self._ending = Ending(source.samples, source.truth)
        self._tail = to_samples(silence_ms + TAIL_MS) if hurry else None
        self._limit: asyncio.Timeout | None = None

    async def run(self) -> None:
        """Until the clip has been dealt with, or the server has closed the session; a microphone has no end.

        Raises SourceError and ClientError."""
        self._tell(Connected(self._client.target.label))
        self._take(SessionCreated("", self._client.session), now_us())
        try:
            async with asyncio.TaskGroup() as tasks:
                pump = tasks.create_task(self._pump())
                await self._listen()
                pump.cancel()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def say(self, text: str) -> None:
        """What the person typed, and the wish for an answer."""
        await self._client.send(ItemCreate(ItemDraft("user", (Content("input_text", text=text),))))
        self.meter.asked(now_us())
        await self._client.send(ResponseCreate())

    # ── out ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _pump(self) -> None:
        """Sound to the server, each packet as soon as it exists."""
        dropped = 0
        async for packet in self._source.packets():
            pcm = SILENT if self.muted else packet.pcm
            await self._client.send_audio(pcm, packet.captured_us)
            if self._level is not None:
                self._level(level_dbfs(pcm16_to_float(pcm)))
            if self._source.dropped > dropped:
                dropped = self._source.dropped
                self._tell(Dropped(dropped))
            self._sent()
            if self._tail is not None and self._client.position >= (self._source.samples or 0) + self._tail:
                return

    def _sent(self) -> None:
        before = self._ending.played
        self._ending.sent(self._client.position)
        if self._ending.played and not before:
            self._arm()

    # ── in ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _listen(self) -> None:
        """Events, until the end."""
        if await self._listened():
            return
        if self._tail is not None and not self._ending.busy:
            # A server that is far behind is quiet too.  It finishes a commit when it has heard all that lay before it.
            self._ending.expect_commit()
            await self._client.send(AudioCommit())
            if await self._listened():
                return
        if self._ending.busy:
            raise ClientError(f"voxd has not finished a turn within {STUCK_S:.0f} s; its log may say why.")

    async def _listened(self) -> bool:
        """True: it is over.  False: nothing has happened for too long."""
        try:
            async with asyncio.timeout(None) as self._limit:
                self._arm()
                async for received in self._client:
                    self._take(received.event, received.at_us)
                    if self._ending.over:
                        return True
                    self._arm()
        except TimeoutError:
            return self._ending.over
        return True

    def _arm(self) -> None:
        """Patience starts anew."""
        if self._limit is not None and self._ending.played:
            patience = 0.0 if self._ending.over else STUCK_S if self._ending.busy else QUIET_S
            self._limit.reschedule(asyncio.get_running_loop().time() + patience)

    def _take(self, event: ServerEvent, at_us: int) -> None:
        if isinstance(event, Error) and event.error.code == NOTHING_LEFT and self._tail is not None:
            self._ending.nothing_to_commit()
            return
        self._ending.receive(event)
        measured = self.meter.receive(event, at_us)
        self._tell(event)
        if measured is not None:
            self._tell(measured)
