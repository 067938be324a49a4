"""Opens, resumes, parks and ends the sessions of all clients, whatever their transport.  Steps 3 and 4 of a packet's
path.

It knows how a session of each transport begins; not HTTP, sockets, keys or what is said in a session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

from shared.parts import Json, Warned
from shared.session_config import AnySession
from shared.settings import Settings
from shared.urls import LAST_SEQ, RESUME
from voxd import messages as m
from voxd.gateway.admission import Admission, Refusal
from voxd.gateway.budget import Budget
from voxd.gateway.connection import Connection, id_factory
from voxd.gateway.dialect import Dialect
from voxd.gateway.engine_host import EngineHost
from voxd.gateway.parking import Parking
from voxd.gateway.session_defaults import beginning, first_config, for_good, odd_values, profile
from voxd.session.terms import Profile
from voxd.telemetry.log import BreachLimiter
from voxd.telemetry.prometheus import Exposition, FileObserver
from voxd.telemetry.turn_meter import Observer, Targets

SEQ_DIGITS = 18  # of LAST_SEQ: no session has sent more events
NO_SEQ = -1  # the number of no event
GA = {"dialect": "ga"}  # what a call and a file speak
OnOutput = Callable[[m.Output], None]


class Caller(NamedTuple):
    """A client that asks for a session.  `session`: the configuration that its client secret carries; {} for none."""

    peer: str  # for the log
    query: Mapping[str, str]  # of the URL
    session: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionFactory:
    """What all connections of a gateway share.  `clock`: us, monotonic."""

    host: EngineHost
    clock: Callable[[], int]
    targets: Targets
    limiter: BreachLimiter
    budget: Budget

    def open(
        self,
        *,
        profile: Callable[[m.Ready], Profile],
        make_config: Callable[[str], AnySession],
        peer: str,
        dialect: Dialect,
        observer: Observer,
        warnings: tuple[Warned, ...] = (),
        on_output: OnOutput | None = None,
        is_file: bool = False,
    ) -> Connection:
        """A connection.  Raises Closed if no engine is ready, and WireError for a configuration that is not valid."""
        return Connection(
            host=self.host,
            clock=self.clock,
            targets=self.targets,
            limiter=self.limiter,
            budget=self.budget,
            profile=profile,
            make_config=make_config,
            peer=peer,
            dialect=dialect,
            observer=observer,
            warnings=warnings,
            on_output=on_output,
            is_file=is_file,
        )


class SessionDesk(Protocol):
    """What calls and file transcriptions need of the gateway; `Sessions` provides it."""

    @property
    def limit(self) -> int:
        """How many sessions there may be."""

    @property
    def transcriber(self) -> str | None:
        """The engine that transcribes; None: none does."""

    @property
    def languages(self) -> tuple[str, ...]:
        """Those that the transcriber knows, ISO 639-1; (): it does not say."""

    @property
    def now_us(self) -> int: ...
    def refusal(self) -> Refusal | None:
        """Why nobody can have a session now."""

    def refused(self, code: str) -> None:
        """A client was sent away."""

    def open_call(self, caller: Caller, session: Json | None) -> Connection: ...
    def open_file(self, peer: str, on_output: OnOutput) -> Connection: ...
    def end(self, connection: Connection, why: str) -> None: ...
    def find(self, token: str) -> Connection | None:
        """The session of a resume token, if its client is connected."""


class Sessions:
    """The sessions of all clients.  `settings`: those of now; `epoch`: seconds since 1970."""

    def __init__(
        self,
        factory: ConnectionFactory,
        admission: Admission,
        exposition: Exposition,
        engines: m.Configure,
        settings: Callable[[], Settings],
        epoch: Callable[[], float],
    ) -> None:
        self._factory, self._admission, self._exposition = factory, admission, exposition
        self._engines, self._settings, self._epoch = engines, settings, epoch
        self._parking = Parking()

    @property
    def engines(self) -> tuple[str, ...]:
        """The names of the engines in use, the one that answers first."""
        return tuple(dict.fromkeys(name for name in (self._engines.respond, self._engines.transcribe) if name))

    @property
    def model(self) -> str:
        """The name that sessions give as their model."""
        return next(iter(self.engines), "none")

    @property
    def limit(self) -> int:
        return self._admission.limit

    @property
    def transcriber(self) -> str | None:
        return self._engines.transcribe

    @property
    def languages(self) -> tuple[str, ...]:
        ready = self._factory.host.ready
        return ready.languages if ready is not None else ()

    @property
    def now_us(self) -> int:
        return self._factory.clock()

    def refusal(self) -> Refusal | None:
        return self._admission.refusal()

    def refused(self, code: str) -> None:
        self._admission.refused(code)

    def find(self, token: str) -> Connection | None:
        return self._parking.served(token)

    def fresh_config(self) -> AnySession:
        """A conversation's configuration before its client has said anything."""
        return first_config(id_factory()("sess"), self._settings(), self.model, set(), transcription=False)

    # ── a session begins ────────────────────────────────────────────────────────────────────────────────────────────

    def open_websocket(self, caller: Caller) -> Connection:
        """The session that the client comes back to, if it is still here, else a new one.

        Do not await between this and the `try` that calls `transport_ended`, or nobody would end the session."""
        connection = self._resumed(caller.query) or self._new(caller)
        self._admission.enter(connection)
        self._parking.admit(connection)
        return connection

    def _new(self, caller: Caller) -> Connection:
        connection = self._factory.open(
            profile=partial(profile, self._settings()),
            make_config=self._config(caller),
            peer=caller.peer,
            dialect=Dialect(caller.query, int(self._epoch())),
            observer=self._exposition,
            warnings=odd_values(caller.query),
        )
        self._exposition.connected("websocket")
        return connection

    def _resumed(self, query: Mapping[str, str]) -> Connection | None:
        token, last = query.get(RESUME), query.get(LAST_SEQ, "0")
        seq = int(last) if len(last) <= SEQ_DIGITS and last.isdecimal() else NO_SEQ
        connection = self._parking.find(token, seq) if token else None
        if connection is not None:
            connection.take_over(seq)
        return connection

    def open_call(self, caller: Caller, session: Json | None) -> Connection:
        """The session of a call.  It cannot be resumed, and its audio is a track.  `session`: what its client wants."""
        connection = self._factory.open(
            profile=partial(profile, self._settings(), track=True),
            make_config=for_good(self._config(caller, session or {})),
            peer=caller.peer,
            dialect=Dialect(GA, int(self._epoch())),
            observer=self._exposition,
            warnings=odd_values(caller.query),
        )
        self._exposition.connected("webrtc")
        self._admission.enter(connection)
        return connection

    def open_file(self, peer: str, on_output: OnOutput) -> Connection:
        """The session of a file that is transcribed.  `on_output`: is told what the engines say."""

        def config(session_id: str) -> AnySession:
            return first_config(session_id, self._settings(), self.model, {"hurry"}, transcription=True)

        connection = self._factory.open(
            profile=partial(profile, self._settings()),
            make_config=config,
            peer=peer,
            dialect=Dialect(GA, 0),
            observer=FileObserver(self._exposition),
            on_output=on_output,
            is_file=True,
        )
        self._exposition.connected("http")
        self._admission.enter(connection)
        return connection

    def _config(self, caller: Caller, *patches: Json) -> Callable[[str], AnySession]:
        return beginning(caller.query, self._settings(), self.model, (caller.session, *patches))

    # ── a session ends ──────────────────────────────────────────────────────────────────────────────────────────────

    def end(self, connection: Connection, why: str) -> None:
        """A call or a file is over; its slot is free at once."""
        self._admission.leave(connection)
        connection.close(why)

    def transport_ended(self, connection: Connection, why: str, *, vanished: bool) -> None:
        """A WebSocket has ended.  If its client has vanished and can resume, the session waits for it."""
        self._admission.leave(connection)
        parked = False
        try:
            if vanished and connection.resume_token and not self._admission.draining:
                self._parking.park(connection)
                parked = True
        finally:
            if not parked:
                self._parking.dismiss(connection, why)

    async def drain(self, drain_s: int, retry_s: int, close_doors: Callable[[], None]) -> None:
        """Stops: tells all clients, lets turns in flight end within `drain_s`, and closes every connection.

        `close_doors` is called before that: clients connect again the moment their connection is closed."""
        self._admission.draining = True
        async with self._factory.host.changed:
            self._factory.host.changed.notify_all()  # requests that wait for an engine are answered now
        for connection in self._admission:
            connection.going_away(drain_s, retry_s)
        turns = [asyncio.create_task(connection.idle.wait()) for connection in self._admission]
        if turns:
            await asyncio.wait(turns, timeout=drain_s)
        close_doors()
        for connection in self._admission:
            connection.end(1012, "voxd is shutting down")
        for connection in self._parking:
            self._parking.dismiss(connection, "voxd is shutting down")
