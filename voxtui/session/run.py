"""One session from its first packet to its last word: a source into a client, events out to whoever shows them.

Steps 1, 2 and 12 of a packet's path meet here, once, for the screen, the plain mode and the headless tools.  It does
not know how anything is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from shared.audio import level_dbfs, pcm16_to_float, to_samples
from shared.events import (
    Ack,
    AudioCommit,
    ClientEvent,
    Committed,
    Content,
    Error,
    ItemCreate,
    ItemDraft,
    ResponseCancel,
    ResponseCreate,
    ResponseCreated,
    ResponseDone,
    ServerEvent,
    SessionCreated,
)
from voxtui.capture.resilient import Ear, Opener
from voxtui.capture.sources import SILENT, Packet, Source
from voxtui.errors import ClientError
from voxtui.events import Connected, Dropped, Event, Floor, Health, Relinked, Unlinked
from voxtui.link.client import RealtimeClient, now_us
from voxtui.session.ending import Ending
from voxtui.session.meter import Meter

QUIET_S = 4.0  # nothing has happened for so long after the clip: what it still holds is no speech
STUCK_S = 120.0  # something was begun and nothing has happened for so long: it will not be finished
PREROLL = 15  # packets from before push-to-talk began, so that the first syllable is kept: 300 ms
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
        self.floor = Floor(client.wishes.hands_free, answers=client.wishes.replies, microphone=source.name)
        self._client, self._source, self._tell, self._level = client, source, tell, level
        self._length = source.samples  # length of a clip; that of a file is known when its end was read
        self._ending = Ending(self._length, source.truth)
        self._tail = to_samples(silence_ms + TAIL_MS) if hurry else None
        self._limit: asyncio.Timeout | None = None
        self._down = False
        self._preroll: deque[Packet] = deque(maxlen=PREROLL)
        self._released_us: int | None = None  # push-to-talk has ended; what was captured before is still coming
        self._answering: set[str] = set()  # responses that are being given
        self._owed: list[ClientEvent] = []  # requests that were sent and have not been seen to arrive

    async def run(self) -> None:
        """Until the clip has been dealt with, or the server has closed the session; a microphone has no end.

        Raises SourceError and ClientError."""
        self._tell(Connected(self._client.label))
        self._take(SessionCreated("", self._client.session), now_us())
        self._tell(self.floor)
        try:
            async with asyncio.TaskGroup() as tasks:
                pump = tasks.create_task(self._pump())
                await self._listen()
                pump.cancel()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    # ── what the person does ────────────────────────────────────────────────────────────────────────────────────────

    async def say(self, text: str) -> None:
        """Sends what the person typed and asks for an answer.  Raises ClientError where there is no link; so do the
        methods that follow."""
        await self._client.send(ItemCreate(ItemDraft("user", (Content("input_text", text=text),))))
        self.meter.asked(now_us())
        await self._client.send(ResponseCreate())

    async def hands_free(self, on: bool) -> None:
        """Lets the server find the turns; when off, a turn is what is said while push-to-talk is on."""
        await self._client.wish(replace(self._client.wishes, hands_free=on))
        self._hold(hands_free=on, talking=False)

    async def converse(self, on: bool) -> None:
        """Switches answers to what is said on or off."""
        await self._client.wish(replace(self._client.wishes, replies=on))
        self._hold(answers=on)

    async def cancel(self) -> None:
        """Cancels the answers that are being given."""
        for key in tuple(self._answering):
            await self._client.send(ResponseCancel(key))

    def talk(self, on: bool) -> None:
        """Begins or ends push-to-talk.  It ends with what was captured by now, which the sound card may still have."""
        if self.floor.hands_free or on is self.floor.talking:
            return
        self._released_us = None if on else now_us()
        self._hold(talking=on)

    def mute(self, on: bool) -> None:
        """Sends silence instead of sound."""
        self._hold(muted=on)

    def listen_to(self, opener: Opener) -> None:
        """Listens to another microphone from now on; a clip plays on."""
        if isinstance(self._source, Ear):
            self._source.listen_to(opener)

    def _hold(self, **changes: bool | str) -> None:
        self.floor = replace(self.floor, **changes)  # type: ignore[arg-type]  # each field is one of the two
        self._tell(self.floor)

    # ── out ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _pump(self) -> None:
        """Sends sound to the server, each packet as soon as it exists."""
        dropped, health = 0, Health()
        async for packet in self._source.packets():
            pcm = SILENT if self.floor.muted else packet.pcm
            await self._pass_on(Packet(packet.end, pcm, packet.captured_us))
            if self._source.name != self.floor.microphone:
                self._hold(microphone=self._source.name)
            if self._level is not None:
                self._level(level_dbfs(pcm16_to_float(pcm)))
            if self._source.dropped > dropped:
                dropped = self._source.dropped
                self._tell(Dropped(dropped))
            if (found := self._client.health) != health:
                health = found
                self._tell(health)
            self._sent()
            samples = self._source.samples
            if self._tail is not None and samples is not None and self._client.position >= samples + self._tail:
                return

    async def _pass_on(self, packet: Packet) -> None:
        """Sends one packet, unless push-to-talk holds it back because it belongs to no turn."""
        if self.floor.hands_free or self.floor.talking:
            while self._preroll:
                before = self._preroll.popleft()
                await self._client.send_audio(before.pcm, before.captured_us)
            await self._client.send_audio(packet.pcm, packet.captured_us)
            return
        self._preroll.append(packet)
        if self._released_us is None:
            return
        if packet.captured_us <= self._released_us:
            self._preroll.clear()
            await self._client.send_audio(packet.pcm, packet.captured_us)
        else:
            await self._commit(self._released_us)

    async def _commit(self, released_us: int) -> None:
        """Ends a turn of push-to-talk."""
        self._released_us = None
        self.meter.released(released_us)
        self._owed = [AudioCommit()]
        if self._client.wishes.replies and self._client.responder is not None:
            self._owed.append(ResponseCreate())
        await self._ask()

    async def _ask(self) -> None:
        """Sends a request that the session depends on, now or over the next link."""
        with contextlib.suppress(ClientError):
            for event in self._owed:
                await self._client.send(event)

    def _sent(self) -> None:
        before = self._ending.played
        if self._length is None and self._source.samples is not None:
            self._length = self._source.samples
            self._ending.ends(self._length)
        self._ending.sent(self._client.position)
        if self._ending.played and not before:
            self._arm()

    # ── in ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _listen(self) -> None:
        """Reads events until the end."""
        if await self._listened():
            return
        if self._tail is not None and not self._ending.busy:
            # A server that is far behind is quiet too.  It finishes a commit when it has heard all that lay before it.
            self._ending.expect_commit()
            self._owed = [AudioCommit()]
            await self._ask()
            if await self._listened():
                return
        if self._ending.busy:
            raise ClientError(f"voxd has not finished a turn within {STUCK_S:.0f} s; its log may say why.")

    async def _listened(self) -> bool:
        """Reads until the session is over (True), or nothing has happened for too long (False)."""
        try:
            async with asyncio.timeout(None) as self._limit:
                self._arm()
                async for received in self._client:
                    if isinstance(received.event, Ack):
                        continue  # comes as long as there is sound, whether or not anything happens
                    if isinstance(received.event, (Unlinked, Relinked)):
                        await self._linked(received.event)
                    else:
                        self._take(received.event, received.at_us)
                    if self._ending.over:
                        return True
                    self._arm()
        except TimeoutError:
            return self._ending.over
        return True

    def _arm(self) -> None:
        """Starts the wait for something to happen anew."""
        if self._limit is not None and not self._down and self._ending.played:
            patience = 0.0 if self._ending.over else STUCK_S if self._ending.busy else QUIET_S
            self._limit.reschedule(asyncio.get_running_loop().time() + patience)

    async def _linked(self, event: Unlinked | Relinked) -> None:
        """Stops the wait while there is no link, when nothing can happen."""
        self._down = isinstance(event, Unlinked)
        if self._down and self._limit is not None:
            self._limit.reschedule(None)
        if isinstance(event, Relinked):
            self._ending.relinked(fresh=event.fresh)
            if self._ending.committing:
                self._owed = [AudioCommit()]  # the commit before may never have arrived; a second one does no harm
            await self._ask()
        self._tell(event)

    def _take(self, event: ServerEvent, at_us: int) -> None:
        if isinstance(event, Error) and event.error.code == NOTHING_LEFT and self._tail is not None:
            self._ending.nothing_to_commit()
            return
        match event:
            case Committed():
                self._owed = [each for each in self._owed if not isinstance(each, AudioCommit)]
            case ResponseCreated(response=response):
                self._owed = [each for each in self._owed if not isinstance(each, ResponseCreate)]
                self._answering.add(response.id)
            case ResponseDone(response=response):
                self._answering.discard(response.id)
            case _:
                pass
        self._ending.receive(event)
        measured = self.meter.receive(event, at_us)
        self._tell(event)
        if measured is not None:
            self._tell(measured)
