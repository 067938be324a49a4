"""Makes the parts of the gateway, connects them, and starts and stops them in order.  Not in the path.

It knows which parts there are, and the order in which they start and stop; not what they do.

    start    opens every socket first, so that a second daemon or a port in use is reported at once; then starts the
             engine process and serves.  /ready answers 503, and systemd waits for READY, until the engine is warm
    reload   after SIGHUP the settings are read and checked again; `voxd.gateway.reload` says which apply at once
    drain    after the first SIGTERM or SIGINT there are no new sessions; turns in flight may end (`server.drain_s`),
             then connections are closed with 1012
    stop     after a second signal, or when there is nothing left to wait for
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from shared.config import ConfigError, client_socket
from shared.environment import names_of_keys
from shared.settings import Settings, Tcp
from shared.urls import REALTIME, TRANSCRIPTIONS
from voxd import messages as m
from voxd.gateway.admission import Admission
from voxd.gateway.budget import MESSAGES, Budget, Kept
from voxd.gateway.engine_host import EngineFailed, EngineHost
from voxd.gateway.reload import applied, changes, line
from voxd.gateway.session_defaults import targets
from voxd.gateway.sessions import Caller, ConnectionFactory, Sessions
from voxd.gateway.status import Service, Status
from voxd.gateway.supervision import keep_told, reloading, tell_stopping
from voxd.system.addresses import address_text, how_to_connect
from voxd.system.signals import watched
from voxd.system.sockets import AlreadyRunning, CannotStart, Listener, discard, listeners
from voxd.system.systemd import Supervisor
from voxd.telemetry import log as journal
from voxd.telemetry.log import BreachLimiter, fields
from voxd.telemetry.prometheus import CONTENT_TYPE, Exposition
from voxd.web import page_files, pages, websocket
from voxd.web.callers import caller_of
from voxd.web.client_secrets import Secrets, client_secrets, secret_of
from voxd.web.gate import OPEN_PATHS, Gate, Guarded
from voxd.web.hold import HoldWhileLoading
from voxd.web.problem import RETRY_S, HttpProblem
from voxd.web.server import Server
from voxd.web.transcriptions import Transcriptions
from voxd.webrtc.calls import Calls

log = logging.getLogger("voxd")
CALLS_S = 3.0  # for the last messages of calls when the daemon stops
SERVERS_S = 5.0  # for the servers to end when the daemon stops
SUBPROTOCOL = "realtime"  # that clients of the API may offer with their key


@dataclass(frozen=True, slots=True)
class DaemonPlan:
    """What the daemon serves, as the command line and the settings say."""

    settings: Settings
    control: Path
    listen: tuple[Tcp | Path, ...]
    transcribe: str | None
    respond: str | None
    token: bytes | None
    notes: tuple[str, ...]  # lines for the operator about what was decided for them
    kept: tuple[Listener, ...] = ()  # the sockets that systemd has opened


# ── the gateway ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Gateway:
    """The parts of the gateway, made and connected."""

    def __init__(self, plan: DaemonPlan) -> None:
        self.plan = plan
        self.settings = settings = plan.settings  # those of the plan until they are read again
        engines = m.Configure(plan.transcribe, plan.respond, dict(settings.engine_options))
        process = settings.engine_process
        self.host = EngineHost(
            engines,
            silence_s=process.heartbeat_timeout_s,
            restarts=process.restarts,
            window_s=process.restart_window_s,
            variables=(*process.environment, *names_of_keys(settings.engine_options)),
        )
        self._targets = targets(settings)
        self._exposition = Exposition(self._targets, lambda: self.status.live())
        self.admission = Admission(self.host, lambda: self.settings.server.max_sessions, self._exposition.refused)
        factory = ConnectionFactory(
            host=self.host, clock=monotonic_us, targets=self._targets, limiter=BreachLimiter(), budget=Budget()
        )
        self.sessions = Sessions(factory, self.admission, self._exposition, engines, lambda: self.settings, unix_s)
        self.secrets = Secrets(time.monotonic, unix_s)
        self.calls = Calls(settings.webrtc, self.sessions, self._caller)
        service = Service(
            engines=engines,
            notes=plan.notes,
            control=plan.control,
            listen=plan.listen,
            activated=bool(plan.kept),
            tls=settings.server.tls_cert is not None,
        )
        self.status = Status(service, self.host, self.admission, self.calls)

    def asgi(self) -> Guarded:
        """The application behind the gate."""
        routes = [
            *page_files.routes(),
            *pages.routes(lambda: self.admission.is_open, self.status.report, lambda: self.sessions.engines),
            client_secrets(self.secrets, self.sessions.fresh_config, lambda: self.sessions.model),
            Route("/metrics", self._metrics),
            Route(TRANSCRIPTIONS, Transcriptions(self.sessions), methods=["POST"]),
            WebSocketRoute(REALTIME, self._realtime),
            *self.calls.routes(),
            pages.nowhere(),
        ]
        app = Starlette(routes=routes, exception_handlers=pages.ERROR_PAGES)
        origins = frozenset(self.settings.server.allow_origin)
        free = OPEN_PATHS | page_files.PATHS
        gate = Gate(self.plan.token, self._hosts(), origins, self.secrets.holds, open_paths=free)
        patient = HoldWhileLoading(app, lambda: self.admission.is_loading, self.host.changed)
        self._guarded = Guarded(patient, gate)
        return self._guarded

    def _hosts(self) -> frozenset[str]:
        own = (address.host for address in self.plan.listen if isinstance(address, Tcp))
        return frozenset((*self.settings.server.allow_host, *own))

    def _caller(self, asked: HTTPConnection) -> Caller:
        secret = secret_of(asked.scope, self.secrets)
        return caller_of(asked, secret.session if secret else {})

    async def _realtime(self, socket: WebSocket) -> None:
        """Serves a WebSocket, from its upgrade to its end."""
        if refusal := self.admission.refusal():
            self.admission.refused(refusal.code)
            problem = HttpProblem(503, refusal.code, refusal.message)
            await socket.send_denial_response(problem.response())
            return
        subprotocols = socket.scope.get("subprotocols", [])
        await socket.accept(SUBPROTOCOL if SUBPROTOCOL in subprotocols else None)
        if refusal := self.admission.refusal():  # other clients have taken the slots meanwhile
            self.admission.refused(refusal.code)
            await websocket.close(socket, 1013, refusal.message)
            return
        connection = self.sessions.open_websocket(self._caller(socket))
        ticket, end = connection.ticket, websocket.End("internal error")
        try:
            end = await websocket.serve(socket, connection)
        finally:
            if ticket == connection.ticket:  # else another transport serves the session now
                self.sessions.transport_ended(connection, end.why, vanished=end.vanished)

    async def _metrics(self, _: Request) -> Response:
        return Response(self._exposition.page(), headers={"Content-Type": CONTENT_TYPE})

    def reload(self, wanted: Settings) -> None:
        """Applies changed settings that need no restart, and logs every change."""
        found, before = changes(self.settings, wanted), self.settings
        self.settings = applied(before, wanted)
        self._targets.take(targets(self.settings))
        origins = frozenset(self.settings.server.allow_origin)
        self._guarded.gate = replace(self._guarded.gate, hosts=self._hosts(), origins=origins)
        self.status.needs_restart = tuple(line(change) for change in found if change.when == "restart")
        journal.set_level(min(before.log.level, self.settings.log.level, key=journal.LEVELS.index))
        for change in found:
            more = fields("settings.changed", setting=change.path, effect=change.when)
            level = logging.WARNING if change.when == "restart" else logging.INFO
            log.log(level, "changed: %s", line(change), extra=more)
        count = f"{len(found)} change{'' if len(found) == 1 else 's'}" if found else "nothing has changed"
        log.info("settings read again: %s", count, extra=fields("daemon.reload"))
        journal.set_level(self.settings.log.level)

    async def drain(self, servers: Iterable[Server]) -> None:
        """Tells all clients, lets turns in flight end, and closes every connection."""

        def close_doors() -> None:
            for server in servers:
                server.close_doors()

        await self.sessions.drain(self.settings.server.drain_s, RETRY_S, close_doors)


def unix_s() -> float:
    """Seconds since 1970, for times that people and clients read; never for a duration."""
    return datetime.now(UTC).timestamp()


def monotonic_us() -> int:
    return time.monotonic_ns() // 1000


# ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def run(plan: DaemonPlan, systemd: Supervisor, read_again: Callable[[], Settings]) -> None:
    """Serves until a signal.  `read_again`: reads and checks the settings again; raises ConfigError if they are wrong.

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
            more = fields("daemon.drain", sessions=len(gateway.admission))
            log.info("stopping: turns in flight may end; a second signal stops at once", extra=more)
            await _until(lambda: gateway.drain([server for server, _ in servers]), signalled.get)
    finally:
        gateway.calls.stop()
        await asyncio.wait({calls}, timeout=CALLS_S)
        await gateway.host.stop()
        for server, _ in servers:
            await server.finish()
        await asyncio.wait(serving, timeout=SERVERS_S)
        first.cancel()
    if engine.done():
        engine.result()  # EngineFailed
    if unserved is not None:
        raise CannotStart(f"clients cannot be served: {unserved.exception() or 'the server has ended'}")
    log.info("stopped", extra=fields("daemon.stop"))


def _tell_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Logs an exception that nothing has caught; those of sockets only for debugging, because clients cause them."""
    error = context.get("exception")
    level = logging.DEBUG if isinstance(error, OSError) else logging.ERROR
    log.log(level, "internal error: %s", context.get("message"), exc_info=error)


def _tell_end(task: asyncio.Task[None]) -> None:
    """Logs the failure of a task that should run as long as the daemon does."""
    if not task.cancelled() and (error := task.exception()):
        log.error("internal error: a task of the daemon has ended", exc_info=error)


async def _reloads(
    gateway: Gateway, systemd: Supervisor, asked: asyncio.Event, read_again: Callable[[], Settings]
) -> None:
    """Reloads the settings whenever it is asked for; requests that come during a reload become a single one."""
    while await asked.wait():
        asked.clear()
        with reloading(systemd, gateway.host):
            try:
                wanted = await asyncio.to_thread(read_again)
                gateway.reload(wanted)
            except ConfigError as error:
                more = fields("daemon.reload", err_code="bad_settings")
                log.error("not reloaded: %s; the settings stay as they were", error, extra=more)
            except Exception:  # no descriptors, or a bug: the next reload may work
                log.exception("not reloaded", extra=fields("daemon.reload", err_code="internal"))


async def _until(work: Callable[[], Awaitable[None]], interrupt: Callable[[], Awaitable[int]]) -> None:
    """Runs `work` until it is done or `interrupt` is."""
    tasks = {asyncio.ensure_future(work()), asyncio.ensure_future(interrupt())}
    _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()


async def _announce(gateway: Gateway) -> None:
    """Logs that the engines are ready, and how to connect."""
    async with gateway.host.changed:
        await gateway.host.changed.wait_for(lambda: gateway.host.state == "ready")
    gc.collect()
    gc.freeze()  # what is loaded by now stays: each search for garbage among it would hold all clients
    ready = gateway.host.ready
    if ready:
        roles = " · ".join(f"{role} {name or 'none'}" for role, name in _roles(ready))
        log.info("ready · %s", roles, extra=fields("daemon.ready", engine=roles))
        log.info("connect with: %s", how_to_connect(gateway.status.report(), client_socket(os.environ)))


def _roles(ready: m.Ready) -> list[tuple[str, str | None]]:
    return [("transcribe", ready.transcribe), ("respond", ready.respond)]


__all__ = ["AlreadyRunning", "CannotStart", "DaemonPlan", "EngineFailed", "run"]
