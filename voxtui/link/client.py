"""One Realtime conversation as seen from the client: audio out, events in, over as many links as it takes.  Steps 2 and
12 of a packet's path.

It knows the session's opening, when each sample was captured, and how a broken link is replaced: sound that is not yet
text is kept (`voxtui.link.replay`), the session is resumed, and what was missed is sent again.  It does not know
microphones, files, screens, nor what an event means: that is `voxtui.session.transcript` and `voxtui.session.meter`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from shared.audio import PACKET, RATE, to_ms
from shared.events import (
    Ack,
    ClientEvent,
    Error,
    Ping,
    Resumed,
    ServerEvent,
    SessionCreated,
    SessionUpdate,
    SessionUpdated,
    dump,
)
from shared.latency import SampleClock
from shared.session_config import AnySession
from voxtui.errors import ClientError, Misconfigured, NotReady, TokenRefused, Unreachable
from voxtui.events import Health, Relinked, Unlinked
from voxtui.link.replay import KEEP, Replay
from voxtui.link.target import Address, Route
from voxtui.link.transport import Sound, Transport, WebSocketView
from voxtui.link.websocket import FINAL, OPEN_S, dial, farewell, parse

SILENCE_MS = 500  # how long a pause ends a turn, unless told
PACE_S = 0.005  # between two packets of 20 ms: what is replayed goes out at four times its own speed, not faster
FIRST_S, MOST_S = 0.2, 5.0  # between two tries of a link
PATIENCE_S = 60.0  # as long as the server keeps the session of a vanished client; a clip is not tried for longer
LAG_MS = 500  # the step in which lag is told: below it lies what an acknowledgement takes
HURRIED = 1 * RATE  # samples of a hurried clip that may wait for the link
HURRIED_KEEP = 600 * RATE  # a hurried server may be minutes behind with what is not yet text


@dataclass(frozen=True, slots=True)
class Wishes:
    """The wishes for a session.

    `answers`: whether it is a conversation, where there is a responder, for good; `replies`: whether what is said is
    answered by itself.  `hands_free`: the server finds the turns.  `delay_ms`: by how much live text may trail."""

    language: str | None = None
    instructions: str | None = None
    silence_ms: int = SILENCE_MS
    delay_ms: int | None = None
    answers: bool = True
    replies: bool = True
    hands_free: bool = True
    transport: Transport = "ws"  # language of the sound
    max_tokens: int | None = None  # of an answer; None: as many as the server gives


@dataclass(frozen=True, slots=True)
class Received:
    """One event and when its bytes were here, in us of this process's monotonic clock: what the server said, or what
    became of the link."""

    event: ServerEvent | Unlinked | Relinked
    at_us: int


class _Broken(Exception):
    """The link in use is over, and another one may do."""


@dataclass(slots=True)
class _Outage:
    """The time without a link."""

    since_us: int
    reason: str = ""
    tries: int = 0


def now_us() -> int:
    """The clock of every stamp in the client."""
    return time.monotonic_ns() // 1000


def waits() -> Iterator[float]:
    """The seconds before each try: doubling, with jitter, so that many clients of one daemon do not come back at
    once."""
    most = FIRST_S
    while True:
        yield random.uniform(most / 2, most)
        most = min(2 * most, MOST_S)


class RealtimeClient:
    """An open session: `async with RealtimeClient.connect(route) as client`, then send_audio and `async for`."""

    def __init__(
        self,
        route: Route,
        wishes: Wishes,
        tell: Callable[[str], None],
        remark: Callable[[str], None],
        *,
        live: bool,
        patience_s: float | None,
    ) -> None:
        self.label = route.label
        self.session: AnySession
        self.clock = SampleClock()
        self.wishes = wishes
        self._route, self._tell, self._live, self._patience_s = route, tell, live, patience_s
        self._replay = Replay(KEEP if live else HURRIED_KEEP)
        self._link: ClientConnection | None = None
        self._linked = asyncio.Event()  # the link may carry audio: its session is as wished, or was before
        self._early: list[Received] = []  # events that came while the session was opened
        self._more, self._moved = asyncio.Event(), asyncio.Event()  # there is audio to send; some has gone out
        self._configured = asyncio.Event()  # the server has said that it ends
        self._socket_until = 0  # samples before it go by WebSocket, also where there is a leg
        self._sound = Sound(self.wishes.transport, udp=route.udp, tell=remark)
        self._offered = SampleClock()  # when each sample could go out
        self._level_us: int | None = None  # since then nothing waits that was held back while there was no link
        self._lost = 0  # samples that were lost by the last change of links

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        route: Route,
        *,
        wishes: Wishes | None = None,
        tell: Callable[[str], None] = lambda line: None,
        remark: Callable[[str], None] | None = None,
        live: bool = True,
        patience_s: float | None = None,
    ) -> AsyncIterator[RealtimeClient]:
        """Opens the session and configures it, as soon as the daemon is ready; `tell` is given a line while it is not,
        `remark` (else `tell` too) one whenever there is something to know about the way of sound.

        `live`: the sound comes at its own speed and does not wait.  `patience_s`: how long another link is tried for
        when one has broken; None: for ever.  Raises the errors of `voxtui.errors`."""
        client = cls(route, wishes or Wishes(), tell, remark or tell, live=live, patience_s=patience_s)
        try:
            await client._open()
            async with asyncio.TaskGroup() as tasks:
                senders = [
                    tasks.create_task(client._send_audio()),
                    tasks.create_task(client._sound.run(client._view())),
                ]
                yield client
                for sender in senders:
                    sender.cancel()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            await client._hang_up()

    @property
    def transcriber(self) -> str | None:
        return self.session.voxd.transcribe

    @property
    def responder(self) -> str | None:
        return self.session.voxd.respond

    @property
    def position(self) -> int:
        """Samples captured so far: the position of the next one."""
        return self._replay.captured

    @property
    def health(self) -> Health:
        """How the link in use does.  Lateness is not seen in a local buffer, since ssh takes all it is given."""
        latency = self._link.latency if self._link is not None else 0.0
        lag_ms, lost_ms = to_ms(self._replay.lag) // LAG_MS * LAG_MS, to_ms(self._replay.lost)
        return Health(round(latency * 1000) if latency else None, lag_ms, lost_ms)

    async def send_audio(self, pcm: bytes, captured_us: int | None = None) -> None:
        """Takes consecutive s16le at 16 kHz; `captured_us`: when its last sample was captured.

        The sound is kept until its text is final, whether or not there is a link.  Waits only when it is not live."""
        self._replay.append(pcm)
        self.clock.record(self.position, now_us() if captured_us is None else captured_us)
        self._offered.record(self.position, now_us())
        self._more.set()
        while not self._live and self._replay.unsent > HURRIED:
            self._moved.clear()
            await self._moved.wait()

    async def wish(self, wishes: Wishes) -> None:
        """Configures the session anew, over this link and those after it.  Raises ClientError."""
        self.wishes = wishes
        await self.send(SessionUpdate(configuration(self.session, wishes)))

    async def send(self, event: ClientEvent) -> None:
        """Sends an event behind all sound that was captured before.  Raises ClientError where there is no link: it is
        not kept."""
        position = self.position
        if self._sound.leg is not None:
            # UDP may be slower than the WebSocket, or lose it: what is not acknowledged goes there too, before this.
            self._socket_until = position
            self._resend()
        while self._linked.is_set() and self._replay.sent < position:
            self._moved.clear()
            await self._moved.wait()
        if self._link is None or not self._linked.is_set():
            raise ClientError("There is no connection at the moment.")
        try:
            await self._link.send(dump(event), text=True)
        except ConnectionClosed as closed:
            raise ClientError(farewell(closed)) from None

    async def ping(self) -> None:
        """Sends a ping, which the server answers before what waits there: its Pong has `t0`, when the ping left."""
        if self._link is not None and self._linked.is_set():
            with contextlib.suppress(ConnectionClosed):
                await self._link.send(dump(Ping(t0=now_us())), text=True)

    def _view(self) -> WebSocketView:
        """What of the link is seen by whoever chooses the way of sound."""

        async def ready() -> None:
            await self._linked.wait()
            await self._configured.wait()

        def address() -> Awaitable[Address]:
            return self._route.address(self._tell)

        return WebSocketView(ready, address, lambda: self._replay.token, self._resend)

    def _resend(self) -> None:
        self._replay.resend()
        self._more.set()

    async def __aiter__(self) -> AsyncIterator[Received]:
        """Yields events until the other side closes the session.  Raises ClientError if no link can be had any more.

        Messages that are no event, or of a type that this client does not know, are skipped: newer servers say more."""
        while self._early:
            yield self._early.pop(0)
        outage: _Outage | None = None
        while True:
            try:
                async for received in self._receive():
                    greeting = received.event
                    if outage is not None and isinstance(greeting, (SessionCreated, Resumed)):
                        yield self._relinked(outage, fresh=isinstance(greeting, SessionCreated))
                        outage = None
                    if not isinstance(greeting, Resumed):
                        yield received
                return
            except _Broken as broken:
                outage = outage or _Outage(now_us())
                outage.reason = str(broken)
            async for _ in self._redial(outage):
                yield Received(Unlinked(outage.reason, outage.tries), now_us())

    # ── the link ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _open(self) -> None:
        """Opens the first link, and waits for a daemon that still loads."""
        told = ""
        for wait_s in waits():
            try:
                link = await self._dial(None)
            except NotReady as error:
                if (progress := error.progress or str(error)) != told:
                    self._tell(told := progress)
                await asyncio.sleep(wait_s)
            else:
                break
        try:
            async with asyncio.timeout(OPEN_S):
                event = parse(await link.recv(decode=False))
        except TimeoutError:
            raise Unreachable(f"{self.label} opens no session within {OPEN_S:.0f} s.") from None
        except ConnectionClosed as closed:
            raise Unreachable(f"{self.label}: {farewell(closed)}") from None
        if not isinstance(event, SessionCreated):
            raise Unreachable(f"{self.label} speaks another protocol than voxd's Realtime API.")
        await self._greeted(event)
        try:
            async with contextlib.aclosing(self._receive()) as events:
                while not self._linked.is_set():
                    self._early.append(await anext(events))
        except (_Broken, StopAsyncIteration) as broken:
            raise Unreachable(f"{self.label}: {broken or 'it closed the session at once.'}") from None

    async def _dial(self, resume: tuple[str, int] | None) -> ClientConnection:
        self._link = await dial(await self._route.address(self._tell), self.label, resume, hurry=not self._live)
        return self._link

    async def _redial(self, outage: _Outage) -> AsyncIterator[None]:
        """Opens another link; yields before each try.

        Raises ClientError if nothing can come of it, or if it takes longer than there is patience."""
        for wait_s in waits():
            if self._patience_s is not None and now_us() - outage.since_us >= self._patience_s * 1e6:
                raise ClientError(outage.reason)
            await self._hang_up()
            outage.tries += 1
            yield
            await asyncio.sleep(wait_s)
            token = self._replay.token
            try:
                await self._dial((token, self._replay.seq) if token else None)
            except (Misconfigured, TokenRefused):
                raise
            except ClientError as error:
                outage.reason = str(error)
            else:
                return

    async def _hang_up(self) -> None:
        self._linked.clear()
        self._moved.set()  # wakes those who wait for this link, which is gone
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def _receive(self) -> AsyncGenerator[Received]:
        """Yields what comes over the link in use until the server closes it properly.  Raises _Broken, ClientError."""
        link = self._link
        assert link is not None
        while True:
            try:
                # A link that was just made has OPEN_S to say whose session it is.
                async with asyncio.timeout(None if self._linked.is_set() else OPEN_S):
                    data = await link.recv(decode=False)
            except TimeoutError:
                raise _Broken(f"{self.label} opens no session within {OPEN_S:.0f} s.") from None
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd is not None else 0
                if code == 1000:
                    return
                raise (ClientError if code in FINAL else _Broken)(farewell(closed)) from None
            at_us = now_us()
            event = parse(data)
            if event is None:
                continue
            if not self._linked.is_set() and isinstance(event, (SessionCreated, Resumed)):
                await self._greeted(event)
            if isinstance(event, SessionUpdated):
                self._configured.set()
                self._carry()
            elif isinstance(event, Error) and not self._configured.is_set():
                raise ClientError(f"{self.label} refuses such a session: {event.error.message}")
            known, event = self._replay.received, self._replay.receive(event)
            if isinstance(event, Ack) and self._replay.received > known:
                self._arrived(event)
            yield Received(event, at_us)

    def _arrived(self, ack: Ack) -> None:
        """Takes how late the newest sample came to voxd, give or take the difference of the two clocks.

        It is not counted from the capture, since sound that push-to-talk held back, or that waited for this link, is
        late by itself."""
        offered_us, level_us = self._offered.time_of(self._replay.received), self._level_us
        if not self._live or offered_us is None or level_us is None or offered_us < level_us:
            return
        if isinstance(ack.received_us, int):
            self._sound.judge.heard((ack.received_us - offered_us) / 1000)

    async def _greeted(self, event: SessionCreated | Resumed) -> None:
        """Told which session this link carries.  Audio may go out once the session is as wished: a session that refused
        a wish would do other things with what is said, such as answer it."""
        assert self._link is not None
        if isinstance(event, SessionCreated):
            self.session = event.session
            self._configured.clear()
            self._lost = self._replay.created(event)
        else:
            self._lost = self._replay.resumed(event)
        if self._configured.is_set():
            self._carry()
            return
        with contextlib.suppress(ConnectionClosed):  # the next read raises the reason
            await self._link.send(dump(SessionUpdate(configuration(self.session, self.wishes))), text=True)

    def _carry(self) -> None:
        """Lets audio go out over this link from now on."""
        if not self._linked.is_set():
            self._level_us = None
            self._sound.judge.forget()
            self._linked.set()
            self._more.set()

    def _relinked(self, outage: _Outage, *, fresh: bool) -> Received:
        down_ms = (now_us() - outage.since_us) // 1000
        return Received(Relinked(down_ms, outage.tries, to_ms(self._lost), fresh), now_us())

    async def _send_audio(self) -> None:
        """Sends packets over whatever link there is, in order, each once per link."""
        while True:
            await self._linked.wait()
            packet, link = self._replay.packet(PACKET if self._live else HURRIED), self._link
            if packet is None or link is None:
                self._level_us = self._level_us or now_us()
                self._more.clear()
                await self._more.wait()
                continue
            try:
                leg = self._sound.leg if self._replay.sent > self._socket_until else None
                if leg is not None and isinstance(packet.voxd_offset, int):
                    await leg.send(packet.audio, packet.voxd_offset)
                else:
                    await link.send(dump(packet), text=True)
            except ConnectionClosed:
                if link is self._link:
                    self._linked.clear()  # whoever reads it finds out why
            self._moved.set()
            if self._live and self._replay.unsent:
                await asyncio.sleep(PACE_S)


def configuration(session: AnySession, wishes: Wishes) -> dict[str, Any]:
    """The body of `session.update`: transcription alone where nobody answers, a conversation otherwise."""
    answers = wishes.answers and session.voxd.respond is not None
    transcription = {"language": wishes.language} if wishes.language else {}
    turns: dict[str, Any] = {"type": "server_vad", "silence_duration_ms": wishes.silence_ms}
    if answers:
        turns["create_response"] = wishes.replies
    sound = {
        "format": {"type": "audio/pcm", "rate": 16_000},
        "transcription": transcription if session.voxd.transcribe is not None or not answers else None,
        "turn_detection": turns if wishes.hands_free else None,
    }
    body: dict[str, Any] = {"type": "realtime" if answers else "transcription", "audio": {"input": sound}}
    if answers and wishes.instructions:
        body["instructions"] = wishes.instructions
    if answers and wishes.max_tokens:
        body["max_output_tokens"] = wishes.max_tokens
    if wishes.delay_ms is not None:
        body["voxd"] = {"delay_ms": wishes.delay_ms}
    return body
