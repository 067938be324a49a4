"""One client, whatever its transport: feeds its session, carries out the session's commands, stamps events with times.
Steps 4 and 11 of a packet's path.

It owns the session; it does not know sockets (a transport calls `receive_*` and takes `next_event`), nor what events
mean.

Bounds: at most OUTBOUND bytes wait for the socket; a client that reads more slowly than that is closed.  While half of
that waits, or too much audio waits for the engine, `readable` is clear and the transport stops reading.  A long answer
waits as its text, so a client that reads is never closed because of it.  All sessions together keep what `Budget` says;
a client that goes over it is closed and may come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections.abc import Callable, Iterator

import msgspec
from msgspec import UNSET

from shared import events
from shared.audio import RATE
from shared.events import Warned, WireError
from shared.session_config import AnySession
from voxd import messages as m
from voxd.gateway.budget import Budget, HeldBytes
from voxd.gateway.dialect import Dialect
from voxd.gateway.engine_host import EngineHost
from voxd.gateway.outgoing import Closed, Outbox, OutgoingMessage, ResumeHistory
from voxd.session.core import Session
from voxd.session.intake import lighten
from voxd.session.terms import Profile
from voxd.telemetry.log import BreachLimiter, SessionLog, fields
from voxd.telemetry.turn_meter import Observer, Targets, TurnMeter

log = logging.getLogger("voxd")
OUTBOUND = 4 << 20  # bytes
READY = 64 << 10  # bytes that wait as messages; the rest waits as events
SMALL = 256 << 10  # bytes of events that each may have, whatever others have


def id_factory() -> Callable[[str], str]:
    """Makes ids that are unique in a session and very unlikely to occur in another: `item_3f9a1c220011`."""
    base, count = secrets.token_hex(4), itertools.count(1)
    return lambda kind: f"{kind}_{base}{next(count):04x}"


class Connection:
    """One client and its session.

    `profile` says what this server offers with the engines that are ready; `make_config(session_id)` gives the
    session's first configuration; `warnings` are of what was asked for before it.  `on_output`: is told what the
    engines say, after the session.  `is_file`: a file is transcribed, so the connection is idle only at its end, not
    between turns."""

    def __init__(
        self,
        *,
        host: EngineHost,
        clock: Callable[[], int],
        targets: Targets,
        limiter: BreachLimiter,
        budget: Budget,
        profile: Callable[[m.Ready], Profile],
        make_config: Callable[[str], AnySession],
        peer: str,
        dialect: Dialect,
        observer: Observer,
        warnings: tuple[Warned, ...] = (),
        on_output: Callable[[m.Output], None] | None = None,
        is_file: bool = False,
    ) -> None:
        if host.ready is None:
            raise Closed(1013, "the engine is not ready")
        self._host, self._clock, self._profile, self._dialect = host, clock, profile, dialect
        self._on_output, self._is_file = on_output, is_file
        self._new_id = id_factory()
        self.id = self._new_id("sess")
        self._begun_us = clock()
        self._meter, self._observer, self._observed = TurnMeter(), observer, 0
        self._received_us = self._begun_us  # when audio last came
        self._audio, self._conversation = HeldBytes(budget.audio), HeldBytes(budget.conversations)
        self._outgoing = HeldBytes(budget.outgoing)
        self.log = SessionLog(self.id, targets, limiter)
        self.readable = asyncio.Event()
        self.readable.set()
        self.idle = asyncio.Event()  # no turn is going on
        self.unlinked = asyncio.Event()  # no transport serves it
        self._outbox, self._history = Outbox(), ResumeHistory()
        self._parked = False
        self._timer: asyncio.TimerHandle | None = None
        self.stream = host.new_stream()
        self._session = Session(self.stream, make_config(self.id), profile(host.ready), self._new_id, warnings)
        config = self._session.config
        self.resume_token = config.voxd.resume_token
        self.log.started(str(config.__struct_config__.tag), peer, config.voxd.transcribe, config.voxd.respond)
        self._begin()

    def _begin(self) -> None:
        """Makes it known to the engine host; from then on it must be closed, so whatever can fail comes before."""
        self._host.attach(self.stream, self)
        with contextlib.ExitStack() as undone:
            undone.callback(self._host.detach, self.stream)
            self._drain()
            undone.pop_all()

    @property
    def kind(self) -> str:
        """What it is for: `rest` for a file, else the type of its session."""
        return "rest" if self._is_file else str(self._session.config.__struct_config__.tag)

    @property
    def hz(self) -> int:
        """The sample rate of the client's audio, in which positions count."""
        return self._session.config.audio.input.format.hz

    @property
    def busy(self) -> bool:
        """Is a turn of it in flight in the engines?"""
        return self._session.busy and not self._parked

    @property
    def ticket(self) -> int:
        """The number of its present transport."""
        return self._outbox.ticket

    @property
    def position(self) -> int:
        """Samples received so far."""
        return self._session.position

    # ── from the transport ──────────────────────────────────────────────────────────────────────────────────────────

    def receive_text(self, data: str) -> None:
        """Handles a JSON message at once."""
        for _ in self.work_on(data):
            pass

    def work_on(self, data: str) -> Iterator[None]:
        """Handles a JSON message of any size in steps, between which other clients may have their turn."""
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
        """Tells the client what its transport cannot do."""
        self._session.receive_error(error)
        self._drain()

    def work_on_binary(self, data: bytes) -> Iterator[None]:
        """Handles a binary message in steps: audio, if the client has asked for `binary_audio`."""
        if self._session.config.voxd.binary_audio:
            yield from self._work_on_audio(data, None)
            return
        message = "Binary messages are not accepted; send audio as `input_audio_buffer.append`."
        self.refuse(WireError("invalid_event", message))

    def receive_audio(self, data: bytes, offset: int | None = None) -> None:
        """Handles a little audio in the session's format.  `offset`: the number of its first sample; samples that have
        come already are skipped."""
        for _ in self._work_on_audio(data, offset):
            pass

    def _work_on_audio(self, data: bytes, offset: int | None) -> Iterator[None]:
        for _ in self._session.work_on_audio(data, offset):
            self._drain()
            yield
        self._drain()

    async def next_event(self, ticket: int = 0) -> OutgoingMessage:
        """The next message for the transport of this ticket.  Raises Closed, as `Outbox.take` does."""
        message = await self._outbox.take(ticket)
        self._refill()
        return message

    def written(self, message: OutgoingMessage) -> None:
        """The transport has sent a message."""
        if message.again:
            return
        now_us, event = self._clock(), message.event
        report = self._meter.written(event, now_us)
        self._observer.written(event, report)
        if failure := _failure(event):
            self.log.failed(*failure)
        if report:
            self.log.turn(report, now_us)
            if report.event and self._session.config.voxd.metrics:
                self._send(msgspec.structs.replace(report.event, event_id=self._new_id("event")))

    def park(self) -> None:
        """The transport has gone and may come back: the slot is free at once, the session is kept."""
        self._parked = True
        self.unlinked.set()
        self._host.leave(self.stream)
        self._session.client_lost()
        self._drain()

    def can_resume_after(self, seq: int) -> bool:
        """Can a client that has received everything up to message `seq` go on without a gap?"""
        return self._outbox.closing is None and self._history.holds_all_after(seq)

    def take_over(self, seq: int) -> None:
        """Serves a new transport, whose client has received everything up to message `seq`, instead of the old one."""
        if self._host.ready is None:
            raise Closed(1013, "the engine is not ready")
        self.park()  # has no effect if it was parked
        self._parked = False
        self.unlinked.clear()
        self._outbox.hand_over(self._history.after(seq))
        self._session.resumed()
        self._session.client_back(self._profile(self._host.ready))
        self._drain()

    def close(self, why: str) -> None:
        """The session is over: its slot is free at once."""
        self.unlinked.set()
        self.idle.set()
        if self._timer:
            self._timer.cancel()
        self._host.detach(self.stream)
        self._close_if_over_budget(0, 0)
        self._outgoing.set(0)
        seconds = (self._clock() - self._begun_us) / 1e6
        self.log.ended(seconds, self._session.received * 1000 // RATE, why)

    def going_away(self, drain_s: int, retry_s: int) -> None:
        """Tells the client that the server will end the connection soon; turns in flight may end first."""
        self._session.going_away(drain_s, retry_s)
        self._drain()

    def end(self, code: int, why: str) -> None:
        """Closes the connection once everything that waits has been written."""
        self._outbox.close(code, why)

    # ── from the engine process ─────────────────────────────────────────────────────────────────────────────────────

    def receive_output(self, output: m.Output) -> None:
        self._meter.receive_output(output)
        self._session.receive_output(output)
        self._drain()
        if isinstance(output, m.Warned):
            self.log.warned(output.code, output.message)
            self._observer.warned(output.code)
        if isinstance(output, m.Refused) and not output.kept:
            self.end(1013, output.reason)
        if self._on_output:
            self._on_output(output)

    def fail(self, why: str) -> None:
        """Closes this client: a bug of the gateway, or an engine process that ends whenever it works for it."""
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
        """Passes on what the session has to send, and stamps all of it with one time."""
        now_us = self._clock()
        received = self._session.received
        if received > self._observed:
            self._received_us = now_us
        self._meter.receive_audio(received, now_us)
        self._observer.received(received - self._observed)
        self._observed = received
        self._close_if_over_budget(self._session.kept, self._session.told)
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
        """Turns events into messages as fast as the client takes them; a client that takes none is not read either."""
        while not self._session.undecided and self._outbox.size < READY:
            if (event := self._session.next_event()) is None:
                break
            self._send(event)
        waiting = self._outbox.size + self._session.waiting
        fits = self._outgoing.set(waiting + self._history.size)
        if self._outbox.closing is None:
            if waiting > OUTBOUND:
                self._outbox.drop(1008, "the client reads too slowly")
            elif not fits and self._outgoing.size > SMALL:
                self._outbox.drop(1013, "voxd keeps as many events as it may; try again later")
        _show(self.readable, not self._session.stalled and waiting < OUTBOUND // 2)
        _show(self.idle, not self._is_file and not self._session.busy and not self._session.waiting)

    def _close_if_over_budget(self, audio: int, conversation: int) -> None:
        """So many bytes are kept for this session now; ends it if that is too much together with all others."""
        if not self._audio.set(audio):
            self.end(1013, "voxd keeps as much audio as it may; try again later")
        if not self._conversation.set(conversation):
            self.end(1013, "voxd keeps as much conversation as it may; try again later")

    def _pong(self, ping: events.Ping) -> None:
        """Answers in front of everything that waits, because a ping measures the link and not the queue."""
        now_us = self._clock()
        pong = events.Pong(self._new_id("event"), ping.ping_id, ping.t0, now_us, self._clock())
        self._outbox.put(OutgoingMessage(pong, events.dump(pong), again=True), first=True)

    def _send(self, event: events.ServerEvent) -> None:
        """Puts an event into the outbox.  In the client's dialect it may be several messages, or none; only the last
        one is measured."""
        if self._outbox.closing:
            return
        self._note(event)
        told = event
        if isinstance(event, events.Ack):
            told = msgspec.structs.replace(event, received_us=self._received_us)
        elif isinstance(event, events.TranscriptionDelta) and not self._session.config.voxd.metrics:
            told = msgspec.structs.replace(event, voxd_audio_ms=UNSET)
        messages = self._dialect.send(told)
        for number, data in enumerate(messages, 1):
            message = OutgoingMessage(event, data, again=number < len(messages))
            if self.resume_token:
                self._history.add(message)
            self._outbox.put(message)

    def _note(self, event: events.ServerEvent) -> None:
        """Logs errors and warnings that the client is told."""
        if isinstance(event, events.Error):
            self.log.refused(event.error.code or event.error.type, event.error.param)
        for warned in getattr(event, "voxd_warnings", UNSET) or ():
            self.log.ignored(warned.code, warned.param)

    def _set_timer(self, now_us: int) -> None:
        """Wakes the session at its deadline, until which `chunked_response` may hold text back."""
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
        except Exception:  # the wall of a timer, which has no caller that could handle it
            log.exception("internal error in %s", self.id)
            self.fail("internal error")


def _show(event: asyncio.Event, value: bool) -> None:
    if value:
        event.set()
    else:
        event.clear()


def _failure(event: events.ServerEvent) -> tuple[str, str] | None:
    """The error code and the id of the turn that fails with this event; None if none does."""
    match event:
        case events.TranscriptionFailed():
            return event.error.code, event.item_id
        case events.ResponseDone(response=response) if response.status == "failed":
            error = (response.status_details or {}).get("error")
            return str(error.get("code") if isinstance(error, dict) else "unknown"), response.id
    return None
