"""Composition root of the gateway: settings → sockets → engine host → routes → life cycle.

It knows which parts there are and the order in which they start and stop; none of what they do.

    start    open every socket (a second daemon, a port in use: told at once) → engine process → serve; /ready is 503
             until warm, and systemd hears READY then
    reload   SIGHUP: the settings are read again and checked; `voxd.gateway.reload` says what counts at once
    drain    first SIGTERM or SIGINT: no new sessions, turns in flight may end (`server.drain_s`), then close 1012
    stop     second signal, or nothing left to wait for
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from shared import __version__
from shared.config import ConfigError, client_socket
from shared.environment import names_of_keys
from shared.session_config import AnySession, Json
from shared.settings import Settings, Tcp
from voxd import messages as m
from voxd.gateway.budget import MESSAGES, Budget, Kept
from voxd.gateway.connection import Connection, id_factory
from voxd.gateway.dialect import Dialect
from voxd.gateway.engine_host import EngineFailed, EngineHost
from voxd.gateway.parking import Parking
from voxd.gateway.reload import applied, changes, line
from voxd.gateway.session_defaults import beginning, first_config, for_good, profile, targets
from voxd.gateway.supervision import keep_told, reloading, tell_stopping
from voxd.system.addresses import address_text, how_to_connect
from voxd.system.signals import watched
from voxd.system.sockets import AlreadyRunning, CannotStart, Listener, discard, listeners
from voxd.system.systemd import Supervisor
from voxd.telemetry import log as journal, prometheus
from voxd.telemetry.log import fields
from voxd.telemetry.prometheus import Exposition
from voxd.web import gate as http, page_files, transcriptions, websocket
from voxd.web.client_secrets import Secrets, client_secrets, secret_of
from voxd.web.hold import Held
from voxd.web.server import Server
from voxd.webrtc.calls import Calls, Desk

log = logging.getLogger("voxd")
RETRY_S = 2  # what clients are asked to wait when there is no slot for them: a restart with a warm cache
SEQ_DIGITS = 18  # of `voxd_last_seq`: no session has sent more events
CALLS_S = 3.0  # for goodbyes to the peers of calls


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be served, decided by the command line."""

    settings: Settings
    control: Path
    listen: tuple[Tcp | Path, ...]
    transcribe: str | None
    respond: str | None
    token: bytes | None
    notes: tuple[str, ...]  # lines for the user: what was decided for them
    kept: tuple[Listener, ...] = ()  # systemd's


# ── the gateway ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Gateway:
    """All live connections, and the answers to "how are you"."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.settings = settings = plan.settings  # those of the plan until they are read again
        configure = m.Configure(plan.transcribe, plan.respond, dict(settings.engine_options))
        process = settings.engine_process
        self.host = EngineHost(
            configure,
            silence_s=process.heartbeat_timeout_s,
            restarts=process.restarts,
            window_s=process.restart_window_s,
            variables=(*process.environment, *names_of_keys(settings.engine_options)),
        )
        self.connections: set[Connection] = set()  # those with a transport
        self.parking = Parking()
        self.secrets = Secrets(time.monotonic, unix_s)
        self._budget, self.draining = Budget(), False
        self._begun = time.monotonic()
        self._targets = targets(settings)
        self._waiting: tuple[str, ...] = ()  # what of the settings file takes a restart
        self._exposition = Exposition(self._targets, self._live)
        desk = Desk(
            self._refusal, self._exposition.refused, self._called, self._left, self.parking.served, monotonic_us
        )
        self.calls = Calls(settings.webrtc, desk)

    def asgi(self) -> http.Guarded:
        """The application behind the gate."""
        pages = http.routes(lambda: self.host.state == "ready" and not self.draining, self.status, self._engines)
        files = transcriptions.Offer(
            self._refusal,
            self._exposition.refused,
            lambda: self.plan.transcribe,
            self._hearing,
            lambda: self.settings.server.max_sessions,
        )
        routes = [
            *page_files.routes(),
            *pages,
            client_secrets(self.secrets, self._fresh, lambda: self.model),
            Route("/metrics", self._metrics),
            Route("/v1/audio/transcriptions", transcriptions.Transcriptions(files), methods=["POST"]),
            WebSocketRoute("/v1/realtime", self._realtime),
            *self.calls.routes(),
            http.nowhere(),
        ]
        app = Starlette(routes=routes, exception_handlers=http.ERROR_PAGES)
        origins, free = frozenset(self.settings.server.allow_origin), http.OPEN_PATHS | page_files.PATHS
        gate = http.Gate(self.plan.token, self._hosts(), origins, self.secrets.holds, open_paths=free)
        held = Held(app, lambda: not self.draining and self.host.state in ("loading", "restarting"), self.host.changed)
        self._guarded = http.Guarded(held, gate)
        return self._guarded

    def _hosts(self) -> frozenset[str]:
        own = (address.host for address in self.plan.listen if isinstance(address, Tcp))
        return frozenset((*self.settings.server.allow_host, *own))

    def reload(self, wanted: Settings) -> None:
        """What takes no restart counts from here on; each change is told."""
        found, before = changes(self.settings, wanted), self.settings
        self.settings = applied(before, wanted)
        self._targets.take(targets(self.settings))
        origins = frozenset(self.settings.server.allow_origin)
        self._guarded.gate = replace(self._guarded.gate, hosts=self._hosts(), origins=origins)
        self._waiting = tuple(line(change) for change in found if change.when == "restart")
        journal.set_level(min(before.log.level, self.settings.log.level, key=journal.LEVELS.index))
        for change in found:
            more = fields("settings.changed", setting=change.path, effect=change.when)
            level = logging.WARNING if change.when == "restart" else logging.INFO
            log.log(level, "changed: %s", line(change), extra=more)
        count = f"{len(found)} change{'' if len(found) == 1 else 's'}" if found else "nothing has changed"
        log.info("settings read again: %s", count, extra=fields("daemon.reload"))
        journal.set_level(self.settings.log.level)

    @property
    def model(self) -> str:
        return next(iter(self._engines()), "none")

    def _engines(self) -> tuple[str, ...]:  # the one that answers first
        return tuple(dict.fromkeys(name for name in (self.plan.respond, self.plan.transcribe) if name))

    def status(self) -> dict[str, object]:
        """For /status, /ready and `voxd status`."""
        ready = self.host.ready
        return {
            "version": __version__,
            "state": "draining" if self.draining else self.host.state,
            "progress": self.host.progress,
            "pid": os.getpid(),
            "engine_pid": self.host.pid,
            "engines": {"transcribe": self.plan.transcribe, "respond": self.plan.respond},
            "notes": [*self.plan.notes, *(ready.notes if ready else ()), *self._waiting],
            "sessions": len(self.connections),
            "calls": len(self.calls),
            "webrtc": self.calls.trouble is None,  # calls are taken
            "max_sessions": self.settings.server.max_sessions,
            "lag_ms": self.host.lag_ms,
            "uptime_s": round(time.monotonic() - self._begun, 1),
            "socket": str(self.plan.control),
            "activated": bool(self.plan.kept),  # by systemd, which starts it again for the next client
            "listen": [address_text(address) for address in self.plan.listen],
            "tls": self.settings.server.tls_cert is not None,  # on the TCP ones
        }

    def _refusal(self) -> tuple[str, str] | None:
        if self.draining:
            return "shutting_down", "voxd is shutting down; connect again in a moment."
        if self.host.state != "ready":
            return "engine_loading", f"The engine is not ready yet: {self.host.progress}."
        if len(self.connections) >= self.settings.server.max_sessions:
            return "session_limit_reached", f"All {len(self.connections)} sessions are taken; see server.max_sessions."
        return None

    async def _realtime(self, socket: WebSocket) -> None:
        refusal = self._refusal()
        if refusal:
            self._exposition.refused(refusal[0])
            body = http.error_body(*refusal, kind="server_error")
            await socket.send_denial_response(JSONResponse(body, 503, {"Retry-After": str(RETRY_S)}))
            return
        subprotocols = socket.scope.get("subprotocols", [])
        await socket.accept("realtime" if "realtime" in subprotocols else None)
        if refusal := self._refusal():  # others have come in since
            self._exposition.refused(refusal[0])
            await websocket.close(socket, 1013, refusal[1])
            return
        connection = self._resumed(socket) or self._new(socket)
        self.connections.add(connection)
        self.parking.admit(connection)
        ticket, end = connection.ticket, websocket.End("internal error")
        try:
            end = await websocket.serve(socket, connection)
        finally:
            if ticket == connection.ticket:  # else another transport serves it now
                self._over(connection, end)

    def _new(self, socket: WebSocket) -> Connection:
        """Nothing is waited for between this and `_over`, or nobody would end what it has begun."""
        dialect = Dialect(socket.query_params, int(unix_s()))
        offered, config = partial(profile, self.settings), self._config(socket)
        parts = self.host, offered, config, monotonic_us, self._targets, _peer(socket), dialect
        connection = Connection(*parts, self._exposition, self._budget)
        self._exposition.connected("websocket")
        return connection

    def _over(self, connection: Connection, end: websocket.End) -> None:
        """Its transport has ended."""
        self.connections.discard(connection)
        with contextlib.ExitStack() as undone:
            undone.callback(self.parking.dismiss, connection, end.why)
            if end.vanished and connection.resume_token and not self.draining:
                self.parking.park(connection)
                undone.pop_all()

    def _config(self, asked: HTTPConnection, *patches: Json) -> Callable[[str], AnySession]:
        secret = secret_of(asked.scope, self.secrets)
        first = secret.session if secret else {}
        return beginning(asked.query_params, self.settings, self.model, (first, *patches))

    def _called(self, request: Request, session: Json | None) -> Connection:
        """The connection of a call.  Its link cannot be taken up again, and its audio is a track."""
        config = for_good(self._config(request, session or {}))
        dialect = Dialect({"dialect": "ga"}, int(unix_s()))
        offered = partial(profile, self.settings, track=True)
        parts = self.host, offered, config, monotonic_us, self._targets, _peer(request), dialect
        connection = Connection(*parts, self._exposition, self._budget)
        self._exposition.connected("webrtc")
        self.connections.add(connection)
        return connection

    def _left(self, connection: Connection, why: str) -> None:
        self.connections.discard(connection)
        connection.close(why)

    def _fresh(self) -> AnySession:
        """What a client secret's session begins with."""
        return first_config(id_factory()("sess"), self.settings, self.model, set(), transcription=False)

    def _resumed(self, socket: WebSocket) -> Connection | None:
        """The session that a client comes back to, if it is still here."""
        token, last = socket.query_params.get("voxd_resume"), socket.query_params.get("voxd_last_seq", "0")
        seq = int(last) if len(last) <= SEQ_DIGITS and last.isdecimal() else -1  # no event of any session
        connection = self.parking.find(token, seq) if token else None
        if connection is not None:
            connection.take_over(seq)
        return connection

    @contextlib.contextmanager
    def _hearing(self, peer: str) -> Iterator[transcriptions.Hearing]:
        """A slot for a file."""

        def config(session_id: str) -> AnySession:
            return first_config(session_id, self.settings, self.model, set(), transcription=True)

        parts = self.host, partial(profile, self.settings), config, monotonic_us, self._targets, peer
        counted = Dialect({"dialect": "ga"}, 0), prometheus.FileObserver(self._exposition)
        hearing = transcriptions.Hearing(*parts, *counted, self._budget)
        self._exposition.connected("http")
        self.connections.add(hearing)
        try:
            yield hearing
        finally:
            self.connections.discard(hearing)

    async def _metrics(self, _: Request) -> Response:
        return Response(self._exposition.page(), headers={"Content-Type": prometheus.CONTENT_TYPE})

    def _live(self) -> prometheus.Live:
        """For /metrics."""
        limit, beat = self.settings.server.max_sessions, self.host.beat
        state = "draining" if self.draining else self.host.state
        sessions = Counter(connection.kind for connection in self.connections)
        engine = prometheus.EngineHealth(beat, (monotonic_us() - beat.at_us) / 1e6) if beat else None
        return prometheus.Live(state, sessions, limit, self.host.losses, engine)

    async def drain(self) -> None:
        """Clients are told; turns in flight may end; then every connection is closed."""
        self.draining = True
        async with self.host.changed:
            self.host.changed.notify_all()
        for connection in list(self.connections):
            connection.going_away(self.settings.server.drain_s, RETRY_S)
        turns = [asyncio.create_task(connection.idle.wait()) for connection in self.connections]
        if turns:
            await asyncio.wait(turns, timeout=self.settings.server.drain_s)
        for connection in self.connections:
            connection.end(1012, "voxd is shutting down")
        for connection in self.parking:
            self.parking.dismiss(connection, "voxd is shutting down")


def _peer(asked: HTTPConnection) -> str:
    """Who it is, for the log."""
    return "unix socket" if http.is_unix(asked.scope) else str(asked.client and asked.client.host)


def unix_s() -> float:
    """Seconds since 1970, for what people and clients read; never for a duration."""
    return datetime.now(UTC).timestamp()


def monotonic_us() -> int:
    return time.monotonic_ns() // 1000


# ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def run(plan: Plan, systemd: Supervisor, read_again: Callable[[], Settings]) -> None:
    """Serves until a signal.  `read_again`: the settings, checked as at the start; ConfigError if they are not right.

    Raises AlreadyRunning, CannotStart, EngineFailed."""
    given = listeners((plan.control, *plan.listen), plan.kept)
    gateway = Gateway(replace(plan, listen=tuple(each.address for each in given[1:])))
    app = gateway.asgi()
    server = plan.settings.server
    tls = (server.tls_cert, server.tls_key) if server.tls_cert and server.tls_key else None
    unix = [each.sock for each in given if isinstance(each.address, Path)]
    tcp = [each.sock for each in given if isinstance(each.address, Tcp)]
    messages = Kept(MESSAGES)
    servers = [(Server(app, None, messages), unix)]
    if tcp:
        servers.append((Server(app, tls, messages), tcp))
    for each in given:
        log.info("listening on %s%s", address_text(each.address), " (systemd's)" if each.kept else "")
    try:
        await _live(gateway, servers, systemd, read_again)
    finally:
        discard(given)


async def _live(
    gateway: Gateway,
    servers: list[tuple[Server, list[socket.socket]]],
    systemd: Supervisor,
    read_again: Callable[[], Settings],
) -> None:
    asyncio.get_running_loop().set_exception_handler(_tell_error)
    signalled, asked = watched()
    serving = [asyncio.create_task(server.serve(sockets=sockets)) for server, sockets in servers]
    engine, calls = asyncio.create_task(gateway.host.run()), asyncio.create_task(gateway.calls.run())
    jobs = _announce(gateway), keep_told(systemd, gateway.host), _reloads(gateway, systemd, asked, read_again)
    telling = [asyncio.create_task(job) for job in jobs]
    for task in (calls, *telling):
        task.add_done_callback(_tell_end)
    first = asyncio.create_task(signalled.get())
    try:
        await asyncio.wait({first, engine, *serving}, return_when=asyncio.FIRST_COMPLETED)
        unserved = next((task for task in serving if task.done()), None)
        for task in telling:
            task.cancel()
        tell_stopping(systemd, gateway.settings.server.drain_s)
        if first.done():
            more = fields("daemon.drain", sessions=len(gateway.connections))
            log.info("stopping: turns in flight may end; a second signal stops at once", extra=more)
            await _until(gateway.drain, signalled.get)
    finally:
        gateway.calls.stop()
        await asyncio.wait({calls}, timeout=CALLS_S)
        await gateway.host.stop()
        for server, _ in servers:
            await server.finish()
        await asyncio.wait(serving, timeout=5)
        first.cancel()
    if engine.done():
        engine.result()  # EngineFailed
    if unserved is not None:
        raise CannotStart(f"clients cannot be served: {unserved.exception() or 'the server has ended'}")
    log.info("stopped", extra=fields("daemon.stop"))


def _tell_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What nobody has caught costs what threw it, and is told; peers that are gone are nothing to tell."""
    error = context.get("exception")
    level = logging.DEBUG if isinstance(error, OSError) else logging.ERROR
    log.log(level, "internal error: %s", context.get("message"), exc_info=error)


def _tell_end(task: asyncio.Task[None]) -> None:
    """Of something that goes on for as long as the daemon does."""
    if not task.cancelled() and (error := task.exception()):
        log.error("internal error: a task of the daemon has ended", exc_info=error)


async def _reloads(
    gateway: Gateway, systemd: Supervisor, asked: asyncio.Event, read_again: Callable[[], Settings]
) -> None:
    """One after the other; those that are asked for meanwhile become one."""
    while await asked.wait():
        asked.clear()
        with reloading(systemd, gateway.host):
            try:
                wanted = await asyncio.to_thread(read_again)
                gateway.reload(wanted)
            except ConfigError as error:
                more = fields("daemon.reload", err_code="bad_settings")
                log.error("not reloaded: %s; the settings stay as they were", error, extra=more)
            except Exception:  # no descriptors, or a bug: the next one may be read
                log.exception("not reloaded", extra=fields("daemon.reload", err_code="internal"))


async def _until(work: Callable[[], Awaitable[None]], interrupt: Callable[[], Awaitable[int]]) -> None:
    """Runs `work` unless `interrupt` comes first."""
    tasks = {asyncio.ensure_future(work()), asyncio.ensure_future(interrupt())}
    _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()


async def _announce(gateway: Gateway) -> None:
    async with gateway.host.changed:
        await gateway.host.changed.wait_for(lambda: gateway.host.state == "ready")
    ready = gateway.host.ready
    if ready:
        roles = " · ".join(f"{role} {name or 'none'}" for role, name in _roles(ready))
        log.info("ready · %s", roles, extra=fields("daemon.ready", engine=roles))
        log.info("connect with: %s", how_to_connect(gateway.status(), client_socket(os.environ)))


def _roles(ready: m.Ready) -> list[tuple[str, str | None]]:
    return [("transcribe", ready.transcribe), ("respond", ready.respond)]


__all__ = ["AlreadyRunning", "CannotStart", "EngineFailed", "Plan", "run"]
