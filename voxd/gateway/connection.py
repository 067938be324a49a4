"""The shell of one client, whatever its transport: feeds the session, runs its commands, stamps, bounds what waits.
Step 4.

It owns the session and the clock; it does not know sockets (a transport calls `receive_*` and drains `next_event`), nor
what events mean.

Bounds: what waits for the socket is at most OUTBOUND bytes; above that the client is too slow to be served and is
closed.  While half of that waits, or too much audio for the engine, `readable` is clear and the transport stops
reading.  A long answer waits as its text, so a client that reads is never closed for it.  All sessions together keep
what `Budget` says; who goes over it is closed, and may come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
from msgspec import UNSET

from shared import events
from shared.events import WireError
from shared.session_config import AnySession
from voxd import messages as m
from voxd.gateway.budget import Budget
from voxd.gateway.dialect import Dialect
from voxd.gateway.engine_host import EngineHost
from voxd.session.core import Session
from voxd.session.intake import lighten
from voxd.session.terms import Profile
from voxd.telemetry.log import SessionLog, fields
from voxd.telemetry.turn_meter import Observer, Targets, TurnMeter

log = logging.getLogger("voxd")
OUTBOUND = 4 << 20  # bytes
READY = 64 << 10  # bytes that wait as messages; the rest waits as events
AT_ONCE = 16  # messages written before others have their turn
HISTORY = 200  # events kept for a client that comes back
HISTORY_BYTES = 4 << 20  # of them


@dataclass(slots=True)
class Waiting:
    """One event for the socket.  `seq`: its number in a session that can be resumed.  `again`: not for the meter."""

    event: events.ServerEvent
    data: bytes
    seq: int = 0
    again: bool = False

    @property
    def cost(self) -> int:
        """Bytes of memory, about: its JSON, and the event beside it."""
        return len(self.data) + 1024


class Closed(Exception):
    """The connection is to be closed by the server, with a WebSocket close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def id_factory() -> Callable[[str], str]:
    """Ids that are unique in a session and unlikely to meet those of another: `item_3f9a1c22_17`."""
    base, count = secrets.token_hex(4), itertools.count(1)
    return lambda kind: f"{kind}_{base}{next(count):04x}"


class Connection:
    """`make_config(session_id)` gives the session's first configuration; `profile` says what this server offers."""

    def __init__(
        self,
        host: EngineHost,
        profile: Callable[[m.Ready], Profile],
        make_config: Callable[[str], AnySession],
        clock: Callable[[], int],
        targets: Targets,
        peer: str,
        dialect: Dialect,
        observer: Observer,
        budget: Budget,
    ) -> None:
        if host.ready is None:
            raise Closed(1013, "the engine is not ready")
        self._host, self._profile, self._clock, self._dialect = host, profile, clock, dialect
        new_id = id_factory()
        self.id = new_id("sess")
        self._begun_us = clock()
        self._meter, self._observer, self._observed = TurnMeter(), observer, 0
        self._received_us = self._begun_us  # when audio last came
        self._budget = budget
        self._kept = self._told = 0  # its part of the budget: audio, and what was said and written
        self.log = SessionLog(self.id, targets)
        self.readable = asyncio.Event()
        self.readable.set()
        self.idle = asyncio.Event()  # no turn is going on
        self.unlinked = asyncio.Event()  # no transport serves it
        self._outbound: deque[Waiting] = deque()
        self._outbound_bytes = 0
        self._history: deque[Waiting] = deque()  # for a client that comes back
        self._history_bytes = self._taken = 0
        self._seq = 0
        self._parked = False
        self.ticket = 0  # counts the transports; only the latest is served
        self.resume_token: str | None = None
        self._outbound_changed = asyncio.Event()
        self._closing: Closed | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._new_id = new_id
        self.stream = host.new_stream()
        self._session = Session(self.stream, make_config(self.id), profile(host.ready), new_id)
        config = self._session.config
        self.resume_token = config.voxd.resume_token
        self.log.started(str(config.__struct_config__.tag), peer, config.voxd.transcribe, config.voxd.respond)
        self._begin()

    def _begin(self) -> None:
        """From here on the engine process knows of it, and it must be closed: nothing before this may fail later."""
        self._host.attach(self.stream, self)
        with contextlib.ExitStack() as undone:
            undone.callback(self._host.detach, self.stream)
            self._drain()
            undone.pop_all()

    @property
    def kind(self) -> str:
        """What it is for: the type of its session."""
        return str(self._session.config.__struct_config__.tag)

    @property
    def hz(self) -> int:
        """The rate at which audio comes and positions count."""
        return self._session.config.audio.input.format.hz

    @property
    def busy(self) -> bool:
        """Do the engines work for it?"""
        return self._session.busy and not self._parked

    @property
    def position(self) -> int:
        """Samples received so far."""
        return self._session.position

    # ── from the transport ──────────────────────────────────────────────────────────────────────────────────────────

    def receive_text(self, data: str) -> None:
        """One JSON message."""
        for _ in self.work_on(data):
            pass

    def work_on(self, data: str) -> Iterator[None]:
        """One JSON message, of any size, a piece at a time: between them others may have their turn."""
        try:
            light = yield from lighten(data)
            received = self._dialect.receive(light.text, light.audio)
        except WireError as error:
            self._session.receive_error(error)
        else:
            for event in received:
                if isinstance(event, events.Ping):
                    self._pong(event)
                    continue
                for _ in self._session.work_on(event):
                    self._drain()
                    yield
        self._drain()

    def refuse(self, error: WireError) -> None:
        """Something that the transport cannot do."""
        self._session.receive_error(error)
        self._drain()

    def work_on_binary(self, data: bytes) -> Iterator[None]:
        """A binary message, likewise: audio, if the client has said that it would send some."""
        if self._session.config.voxd.binary_audio:
            yield from self._work_on_audio(data, None)
            return
        message = "Binary messages are not accepted; send audio as `input_audio_buffer.append`."
        self.refuse(WireError("invalid_event", message))

    def receive_audio(self, data: bytes, offset: int | None = None) -> None:
        """A little audio in the session's format.  `offset`: number of its first sample; what is here already is passed
        over."""
        for _ in self._work_on_audio(data, offset):
            pass

    def _work_on_audio(self, data: bytes, offset: int | None) -> Iterator[None]:
        for _ in self._session.work_on_audio(data, offset):
            self._drain()
            yield
        self._drain()

    async def next_event(self, ticket: int = 0) -> Waiting:
        """The next event for the socket.  Raises Closed when the server ends the connection and all is written, or when
        another transport has taken over."""
        self._taken += 1
        if self._taken % AT_ONCE == 0:
            await asyncio.sleep(0)  # a long answer is not written in one go
        while True:
            if ticket != self.ticket:
                raise Closed(1001, "the session goes on over another connection")
            if self._outbound:
                break
            if self._closing:
                raise self._closing
            self._outbound_changed.clear()
            await self._outbound_changed.wait()
        waiting = self._outbound.popleft()
        self._outbound_bytes -= waiting.cost
        self._refill()
        return waiting

    def written(self, waiting: Waiting) -> None:
        """The socket has taken an event."""
        if waiting.again:
            return
        now_us, event = self._clock(), waiting.event
        report = self._meter.written(event, now_us)
        self._observer.written(event, report)
        if failure := _failure(event):
            self.log.failed(*failure)
        if report:
            self.log.turn(report, now_us)
            if report.event and self._session.config.voxd.metrics:
                self._send(msgspec.structs.replace(report.event, event_id=self._new_id("event")))

    def park(self) -> None:
        """The transport is gone and may come back: the slot is free at once, the session waits."""
        self._parked = True
        self.unlinked.set()
        self._host.leave(self.stream)
        self._session.client_lost()
        self._drain()

    def missed_since(self, seq: int) -> bool:
        """Is everything after event number `seq` still here?"""
        oldest = self._history[0].seq if self._history else self._seq + 1
        return oldest - 1 <= seq <= self._seq and self._closing is None

    def take_over(self, seq: int) -> None:
        """A new transport, whose client has seen the events up to `seq`.  Whoever was served before is no longer."""
        if self._host.ready is None:
            raise Closed(1013, "the engine is not ready")
        self.park()  # does nothing that was not done, if it was parked
        self._parked = False
        self.unlinked.clear()
        self.ticket += 1
        self._outbound = deque(each for each in self._history if each.seq > seq)
        for each in self._outbound:
            each.again = True
        self._outbound_bytes = sum(each.cost for each in self._outbound)
        self._session.resumed()
        self._session.engine_ready(self._profile(self._host.ready))
        self._drain()
        self._outbound_changed.set()

    def close(self, why: str) -> None:
        """The transport is gone: the slot is free at once."""
        self.unlinked.set()
        if self._timer:
            self._timer.cancel()
        self._host.detach(self.stream)
        self._weigh(0, 0)
        seconds = (self._clock() - self._begun_us) / 1e6
        self.log.ended(seconds, self._session.received * 1000 // 16_000, why)

    def going_away(self, drain_s: int, retry_s: int) -> None:
        """The server will end the connection soon; what is being said may end first."""
        self._session.going_away(drain_s, retry_s)
        self._drain()

    def end(self, code: int, why: str) -> None:
        """The server ends the connection once what waits has been written."""
        self._closing = self._closing or Closed(code, why)
        self._outbound_changed.set()

    # ── from the engine process ─────────────────────────────────────────────────────────────────────────────────────

    def receive_output(self, output: m.Output) -> None:
        self._meter.receive_output(output)
        self._session.receive_output(output)
        self._drain()
        if isinstance(output, m.Refused) and not output.kept:
            self.end(1013, output.reason)

    def fail(self, why: str) -> None:
        """A bug of the gateway on its way, or an engine that ends of it: this client is served no further."""
        log.error("session %s is closed: %s", self.id, why, extra=fields("client.failed", session_id=self.id))
        self.end(1011, why)

    def engine_lost(self) -> None:
        self._session.engine_lost()
        self._drain()

    def engine_ready(self, ready: m.Ready) -> None:
        if not self._parked:
            self._session.engine_ready(self._profile(ready))
        self._drain()

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _drain(self) -> None:
        """What the session has to send goes out, stamped with one time."""
        now_us = self._clock()
        received = self._session.received
        if received > self._observed:
            self._received_us = now_us
        self._meter.receive_audio(received, now_us)
        self._observer.received(received - self._observed)
        self._observed = received
        self._weigh(self._session.kept, self._session.told)
        commands, notes = self._session.to_send()
        for note in notes:
            self._meter.receive_note(note, now_us)
        self._host.send(commands)
        for command in commands:
            if isinstance(command, m.Speculate):
                self._observer.speculated()
        self._refill()
        self._set_timer(now_us)

    def _refill(self) -> None:
        """Events become messages no faster than the client takes them; who sends and does not take is not read."""
        while self._outbound_bytes < READY and (event := self._session.next_event()) is not None:
            self._send(event)
        waiting = self._outbound_bytes + self._session.waiting
        if waiting > OUTBOUND and self._closing is None:
            self._outbound.clear()
            self.end(1008, "the client reads too slowly")
        _show(self.readable, not self._session.stalled and waiting < OUTBOUND // 2)
        _show(self.idle, not self._session.busy and not self._session.waiting)

    def _weigh(self, audio: int, conversation: int) -> None:
        """So many bytes are held for this session now."""
        grown, self._kept = audio - self._kept, audio
        if not self._budget.audio.grew(grown):
            self.end(1013, "voxd holds as much audio as it may; try again later")
        grown, self._told = conversation - self._told, conversation
        if not self._budget.conversations.grew(grown):
            self.end(1013, "voxd holds as much of conversations as it may; try again later")

    def _pong(self, ping: events.Ping) -> None:
        """Overtakes everything that waits: it measures the link, not the queue."""
        now_us = self._clock()
        pong = events.Pong(self._new_id("event"), ping.ping_id, ping.t0, now_us, self._clock())
        self._outbound.appendleft(Waiting(pong, events.dump(pong), 0, again=True))
        self._grew(self._outbound[0])

    def _send(self, event: events.ServerEvent) -> None:
        """In the client's dialect one event may be several messages, or none; the meter sees it once."""
        if self._closing:
            return
        self._note(event)
        told = event
        if isinstance(event, events.Ack):
            told = msgspec.structs.replace(event, received_us=self._received_us)
        elif isinstance(event, events.TranscriptionDelta) and not self._session.config.voxd.metrics:
            told = msgspec.structs.replace(event, voxd_audio_ms=UNSET)
        messages = self._dialect.send(told)
        for number, data in enumerate(messages, 1):
            self._put(Waiting(event, data, again=number < len(messages)))

    def _note(self, event: events.ServerEvent) -> None:
        """What the client does not get is in the log, too."""
        if isinstance(event, events.Error):
            self.log.refused(event.error.code or event.error.type, event.error.param)
        for warned in getattr(event, "voxd_warnings", UNSET) or ():
            self.log.ignored(warned.code, warned.param)

    def _put(self, waiting: Waiting) -> None:
        if self.resume_token:
            self._seq = waiting.seq = self._seq + 1
            waiting.data = events.numbered(waiting.data, self._seq)
            self._remember(waiting)
        self._outbound.append(waiting)
        self._grew(waiting)

    def _remember(self, waiting: Waiting) -> None:
        self._history.append(waiting)
        self._history_bytes += waiting.cost
        while len(self._history) > HISTORY or self._history_bytes > HISTORY_BYTES:
            self._history_bytes -= self._history.popleft().cost

    def _grew(self, waiting: Waiting) -> None:
        self._outbound_bytes += waiting.cost
        self._outbound_changed.set()

    def _set_timer(self, now_us: int) -> None:
        """`chunked_response` may hold text until a deadline."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        deadline = self._session.deadline_us
        if deadline is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0, deadline - now_us) / 1e6, self._tick)

    def _tick(self) -> None:
        try:
            self._session.receive_time(self._clock())
            self._drain()
        except Exception:  # the wall of a timer, which has nobody above it
            log.exception("internal error in %s", self.id)
            self.fail("internal error")


def _show(event: asyncio.Event, value: bool) -> None:
    if value:
        event.set()
    else:
        event.clear()


def _failure(event: events.ServerEvent) -> tuple[str, str] | None:
    """Error code and id of the turn that ends with this event, if it fails."""
    match event:
        case events.TranscriptionFailed():
            return event.error.code, event.item_id
        case events.ResponseDone(response=response) if response.status == "failed":
            error = (response.status_details or {}).get("error")
            return str(error.get("code") if isinstance(error, dict) else "unknown"), response.id
    return None
