"""Connects each WebRTC call to a Connection: signalling over HTTP, events over a data channel, audio over a track.
Steps 3 and 11 of a packet's path, by WebRTC.

    POST   /v1/realtime/calls                an SDP offer (`application/sdp`, or a form with `sdp` and `session`) → 201
                                             with the answer; `Location` names the call
    POST   …/calls?voxd_session=TOKEN        the same for an audio leg: audio only, for a session on a WebSocket
    POST   /v1/realtime/calls/{id}/hangup    ends the call; so does DELETE of the call

It knows HTTP and the life of a call; not aiortc (`voxd.webrtc.peer`), SDP (`voxd.webrtc.sdp`) or what events mean.  A
call takes its slot when it is offered, not when it connects, so that a refused client learns of it at once.

A call ends when it is hung up, when the client closes it, when the client's ICE agent has not consented for half a
minute (RFC 7675), when no connection was made within CONNECT_S, or when the server ends it.  An audio leg also ends
with its WebSocket, or when a newer leg replaces it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route

from shared import events
from shared.audio import RATE
from shared.events import WireError
from shared.parts import Json
from shared.settings import WebRtc
from shared.urls import CALLS, SESSION
from voxd.gateway.connection import Connection
from voxd.gateway.outgoing import Closed
from voxd.gateway.sessions import Caller, SessionDesk
from voxd.session.intake import VALUES, count_values
from voxd.system.fair_loop import in_line, newcomer
from voxd.telemetry.log import fields
from voxd.web import form
from voxd.web.callers import is_unix
from voxd.web.gate import body_of
from voxd.web.problem import HttpProblem
from voxd.webrtc import sdp
from voxd.webrtc.track import FACTOR, RtpTrack

if TYPE_CHECKING:
    from voxd.webrtc.peer import Peer

log = logging.getLogger("voxd")
CONNECT_S = 30.0
HELD = 2 * 2 * RATE  # bytes: a leg's audio waits 2 s for earlier audio that is still coming by WebSocket
FLUSH_S = 1.0  # for the last messages of a call that the server ends
BODY = (256 << 10) + sdp.MAX_BYTES  # bytes of a form
DISABLED = "WebRTC is switched off here: set `webrtc.enabled: true` on the server, or connect by WebSocket."
MISSING = "This server lacks aiortc: install the extra `webrtc` there (see `voxd doctor`), or connect by WebSocket."


class Calls:
    """All calls of the daemon.  Serves as long as `run` runs.  `caller_of`: who has sent a request."""

    def __init__(self, settings: WebRtc, desk: SessionDesk, caller_of: Callable[[HTTPConnection], Caller]) -> None:
        self._settings, self._desk, self._caller_of = settings, desk, caller_of
        self._calls: dict[str, Media] = {}
        self._legs: dict[Connection, AudioLeg] = {}  # the latest of each session
        self._tasks = asyncio.TaskGroup()
        self._stopped = asyncio.Event()

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def trouble(self) -> tuple[str, str] | None:
        """Why no call is possible, as (code, message); None if calls are possible."""
        if not self._settings.enabled:
            return "webrtc_disabled", DISABLED
        return None if _aiortc() else ("webrtc_missing", MISSING)

    def routes(self) -> list[Route]:
        return [
            Route(CALLS, self._offer, methods=["POST"]),
            Route(CALLS + "/{call_id}/hangup", self._hang_up, methods=["POST"]),
            Route(CALLS + "/{call_id}", self._hang_up, methods=["DELETE"]),
        ]

    async def run(self) -> None:
        """Serves calls until `stop`."""
        if trouble := self._settings.enabled and self.trouble:
            log.warning("WebRTC is not available: %s", trouble[1])
        elif self._settings.enabled:
            log.info("calls by WebRTC · UDP %s, address %s", self._settings.udp_ports, self._settings.address)
        async with self._tasks:
            await self._stopped.wait()

    def stop(self) -> None:
        """Ends every call."""
        for call in self._calls.values():
            call.hang_up("voxd is shutting down")
        self._stopped.set()

    async def _hang_up(self, request: Request) -> Response:
        call = self._calls.get(request.path_params["call_id"])
        if call is None:
            raise HttpProblem(404, "call_id_not_found", "There is no such call.", "call_id")
        call.hang_up("hung up")
        return Response(status_code=200)

    async def _offer(self, request: Request) -> Response:
        try:
            # A call goes on when its request has been answered.
            return await asyncio.create_task(self._answer(request), context=in_line(newcomer()))
        except HttpProblem as problem:
            self._desk.refused(problem.code)
            raise

    async def _answer(self, request: Request) -> Response:
        if trouble := self.trouble:
            raise HttpProblem(501, *trouble)
        text, asked = await _body(request)
        try:
            offer = sdp.read(text, _peer(request))
        except sdp.InvalidOffer as error:
            raise HttpProblem(400, "invalid_offer", str(error), "sdp") from None
        session = request.query_params.get(SESSION)
        if session is None and not offer.has_channel:
            message = "The offer has no data channel section: create the channel `oai-events` before the offer."
            raise HttpProblem(400, "invalid_offer", message, "sdp")
        with contextlib.ExitStack() as held:
            call = self._leg(session, held) if session is not None else self._call(request, offer, asked, held)
            answer = await self._pick_up(call, offer, request)
            self._calls[call.id] = call
            held.callback(self._calls.pop, call.id)
            self._tasks.create_task(call.run(held.pop_all()))
        return Response(answer, 201, {"Location": f"{CALLS}/{call.id}"}, "application/sdp")

    def _call(self, request: Request, offer: sdp.Offer, asked: Json | None, held: contextlib.ExitStack) -> Media:
        if refusal := self._desk.refusal():  # no await from here until the slot is taken, or two calls could take one
            raise HttpProblem(503, refusal.code, refusal.message)
        call = Call(secrets.token_hex(12), self._now_us, offer.message)
        call.connection = self._connect(request, asked)
        held.callback(lambda: self._desk.end(call.connection, call.why))
        return call

    def _leg(self, token: str, held: contextlib.ExitStack) -> Media:
        connection = self._desk.find(token)
        if connection is None:
            raise HttpProblem(404, "session_not_found", "No connected session has this token.", SESSION)
        if connection.hz != RATE:
            message = f"Audio beside a WebSocket needs a session at {RATE} Hz; this one is at {connection.hz}."
            raise HttpProblem(400, "invalid_value", message, "session.audio.input.format")
        if other := self._legs.get(connection):  # a session may have one UDP port, not the whole range
            other.hang_up("another call took its place")
        leg = AudioLeg(secrets.token_hex(12), self._now_us)
        leg.connection = connection
        self._legs[connection] = leg
        held.callback(self._leg_over, leg)
        return leg

    def _now_us(self) -> int:
        return self._desk.now_us

    def _leg_over(self, leg: AudioLeg) -> None:
        if self._legs.get(leg.connection) is leg:
            del self._legs[leg.connection]

    def _connect(self, request: Request, asked: Json | None) -> Connection:
        try:
            return self._desk.open_call(self._caller_of(request), asked)
        except WireError as error:
            raise HttpProblem(400, error.code, error.message, error.param) from None
        except Closed as error:
            raise HttpProblem(503, "engine_loading", str(error)) from None

    async def _pick_up(self, call: Media, offer: sdp.Offer, request: Request) -> str:
        from voxd.webrtc.peer import NoPort, Peer, Ports

        call.peer = peer = Peer(call.stray_channel)
        low, high = self._settings.ports
        async with contextlib.AsyncExitStack() as undone:
            undone.push_async_callback(peer.close)
            try:
                answer = await peer.answer(offer, Ports(low, high), self._address(request))
            except NoPort:
                message = f"No UDP port of {low} to {high} is free; see webrtc.udp_ports."
                raise HttpProblem(503, "no_udp_port", message) from None
            except ValueError as error:
                raise HttpProblem(400, "invalid_offer", f"The offer cannot be answered: {error}", "sdp") from None
            undone.pop_all()
            return answer

    def _address(self, request: Request) -> str:
        """The address for media: the operator's, or else the one at which the client has reached this server."""
        if self._settings.address != "auto":
            return self._settings.address
        return "127.0.0.1" if is_unix(request.scope) else _ip(request.scope["server"][0])


class Media:
    """A peer connection whose offer was answered, and the connection that it serves."""

    connection: Connection
    peer: Peer

    def __init__(self, key: str, clock: Callable[[], int]) -> None:
        self.id = f"rtc_{key}"
        self.why = "closed"
        self._strayed = False
        self._clock = clock

    def hang_up(self, why: str) -> None:
        self.peer.end(why)

    def stray_channel(self, label: str) -> str:
        """The `error` event for a data channel that is not used; the first one of a call is also logged."""
        message = f"Events go over one data channel called `oai-events`; this one, {label[:60]!r}, is not used."
        if not self._strayed:
            self._strayed = True
            log.warning("call %s: its data channel %.60r is not used; events go over `oai-events`", self.id, label)
        body = events.ErrorBody("invalid_request_error", "unknown_data_channel", message, None, None)
        return events.dump(events.Error(event_id=f"event_{secrets.token_hex(12)}", error=body)).decode()

    async def run(self, held: contextlib.ExitStack) -> None:
        """Serves the call until it ends, whoever ends it."""
        try:
            with held:
                try:
                    self.why = await self._serve()
                except Exception:
                    self.why = "internal error"
                    raise
                finally:
                    await self.peer.close()
        except Exception:
            # The wall: a bug of the gateway ends this call, not the daemon, nor the other calls.
            log.exception("internal error in %s", self.connection.id)

    async def _serve(self) -> str:
        """Serves the call; returns why it ended."""
        from voxd.webrtc.peer import PeerGone

        why: list[BaseException] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                for job in self._jobs():
                    tasks.create_task(job)
        except* PeerGone as gone:
            why.extend(gone.exceptions)
        except* Closed as closed:
            why.extend(closed.exceptions)
            with contextlib.suppress(PeerGone, TimeoutError):
                await asyncio.wait_for(self.peer.flush(), FLUSH_S)
        return str(why[0])

    def _jobs(self) -> list[Coroutine[Any, Any, None]]:
        """The tasks of the call; the first that raises PeerGone or Closed ends it."""
        raise NotImplementedError

    async def _until(self, event: asyncio.Event) -> None:
        try:
            await asyncio.wait_for(event.wait(), CONNECT_S)
        except TimeoutError:
            raise Closed(1000, f"no connection within {CONNECT_S:.0f} s") from None


class Call(Media):
    """A call with a session of its own.  `message`: bytes of the largest message that the peer accepts."""

    def __init__(self, key: str, clock: Callable[[], int], message: int) -> None:
        super().__init__(key, clock)
        self._message = message

    def _jobs(self) -> list[Coroutine[Any, Any, None]]:
        return [self._write(), self._read(), self._hear()]

    async def _write(self) -> None:
        await self._until(self.peer.opened)
        more = fields("call.connected", session_id=self.connection.id)
        log.info("[WebRTC] Connected with client ID: %s", self.id, extra=more)
        while True:
            message = await self.connection.next_event()
            if len(message.data) > self._message:
                self.connection.refuse(_too_large(len(message.data), self._message))
                continue
            await self.peer.send(message.text)
            self.connection.written(message)

    async def _read(self) -> None:
        while True:
            for _ in self.connection.work_on(await self.peer.receive_message()):
                await asyncio.sleep(0)
            await asyncio.sleep(0)  # each message is a turn of its own

    async def _hear(self) -> None:
        """Feeds the track to the session, which bounds what waits for the engine: a track cannot be told to wait."""
        from voxd.webrtc.peer import PeerGone

        track = RtpTrack()
        with contextlib.suppress(PeerGone):  # a muted client may end its track and still send events
            while self.peer.has_track:
                timestamp, frame = await self.peer.receive_frame()
                self.connection.receive_audio(track.receive(timestamp, frame, self._clock()))


class AudioLeg(Media):
    """A call for only the audio of a session whose events go over a WebSocket.

    Its timestamps are positions in that session, so audio may switch between the two transports at any sample.  It ends
    with the WebSocket."""

    def _jobs(self) -> list[Coroutine[Any, Any, None]]:
        return [self._connect(), self._hear(), self._linked(), self._ended()]

    async def _connect(self) -> None:
        await self._until(self.peer.connected)
        more = fields("call.connected", session_id=self.connection.id)
        log.info("[WebRTC] Connected with client ID: %s", self.id, extra=more)

    async def _hear(self) -> None:
        """Feeds the track to the session.  The first audio waits up to 2 s for earlier audio that is still coming by
        WebSocket."""
        from voxd.webrtc.peer import nearest

        track, held, position = RtpTrack(), b"", None
        while True:
            timestamp, frame = await self.peer.receive_frame()
            if position is None:
                position = nearest(timestamp, self.connection.position * FACTOR) // FACTOR
            held += track.receive(timestamp, frame, self._clock())
            if self.connection.position >= position or len(held) >= HELD:
                self.connection.receive_audio(held, position)
                position, held = position + len(held) // 2, b""

    async def _ended(self) -> None:
        """Reads and ignores messages until the call ends: events go over the WebSocket."""
        while True:
            await self.peer.receive_message()

    async def _linked(self) -> None:
        await self.connection.unlinked.wait()
        raise Closed(1000, "its WebSocket is gone")


def _too_large(size: int, limit: int) -> WireError:
    message = (
        f"An event of {size} bytes was not sent: this data channel accepts {limit}. A WebSocket has no such limit."
    )
    return WireError("event_too_large", message)


def _aiortc() -> bool:
    """Is aiortc installed?  It is imported only when it is needed, for that takes 0.3 s and 30 MB."""
    try:
        import voxd.webrtc.peer  # noqa: F401
    except ImportError:
        return False
    return True


def _peer(request: Request) -> str | None:
    """The address that an offer came from.  A client of a UNIX socket is on this machine."""
    if is_unix(request.scope):
        return "127.0.0.1"
    return _ip(request.client.host) if request.client else None


def _ip(host: str) -> str:
    """The usual form of an address: IPv4 where a socket that serves both gives IPv4 as a mapped IPv6 address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


# ── the request ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def _body(request: Request) -> tuple[bytes, Json | None]:
    """The offer, and the session configuration if the client sent one.  Raises HttpProblem."""
    a_form = form.is_form(request.headers)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not a_form and kind != "application/sdp":
        message = "Send the offer as `application/sdp`, or as `multipart/form-data` with `sdp` and `session`."
        raise HttpProblem(415, "unsupported_content_type", message)
    data = await body_of(request, BODY if a_form else sdp.MAX_BYTES)
    try:
        return await _form(request, data) if a_form else (data, None)
    except WireError as error:
        raise HttpProblem(400, error.code, error.message, error.param) from None


async def _form(request: Request, data: bytes) -> tuple[bytes, Json | None]:
    """Raises WireError, _Refusal."""

    async def once() -> AsyncGenerator[bytes, None]:
        yield data

    found = dict(await form.read(request.headers, once(), size=BODY, field=BODY))
    parts = {name: value.encode() if isinstance(value, str) else value.data.read() for name, value in found.items()}
    if "sdp" not in parts:
        raise HttpProblem(400, "missing_required_parameter", "The form has no part `sdp`.", "sdp")
    return parts["sdp"], _session(parts["session"]) if "session" in parts else None


def _session(data: bytes) -> Json:
    if count_values(data.decode("utf-8", "replace")) > VALUES:
        raise HttpProblem(413, "request_too_large", f"The part `session` may have {VALUES} values.", "session")
    try:
        return msgspec.json.decode(data, type=Json)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HttpProblem(
            400, "invalid_json", f"The part `session` is not a JSON object: {error}.", "session"
        ) from None
