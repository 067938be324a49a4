"""The HTTP and WebSocket server: uvicorn, made safe against clients that are slow, silent or hostile.  Steps 3 and 11
of a packet's path, below `websocket`.

It knows bytes, time and uvicorn's protocol classes; not routes, the gate, sessions or events.

    not in yet      `door` bounds how many connections wait to be let in, and for how long
    a message       MESSAGE_LIMIT bytes in FRAGMENT_LIMIT fragments, else close 1009; nothing is ever decompressed
    costly          clients that cost little come first (`voxd.system.fair_loop`); until then no more is read
    all messages    what `messages` may hold; beyond it, a client that holds more than SMALL is closed with 1013
    silent          a client without a byte for PING_S + PONG_S counts as gone
    not reading     what a client does not read waits here (64 KiB), then in the connection, which closes it with 1008;
                    a client that has read nothing for STALL_S counts as gone

`tests/voxd/web/test_protocol.py` names the version of uvicorn whose methods are overridden here.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from typing import cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

from voxd.gateway.budget import MESSAGES, Kept
from voxd.system.fair_loop import count_for, newcomer
from voxd.web.door import Door, Handshakes
from voxd.web.upgrade import fault

HEAD = 16 << 10  # bytes of a request's head, as Node has it: as tiny lines they are parsed in 8 ms, in one go
MESSAGE_LIMIT = 24 << 20  # bytes of one WebSocket message
FRAGMENT_LIMIT = 4096  # fragments of one WebSocket message
SMALL = 64 << 10  # bytes that each WebSocket may hold, whatever others do
PING_S = 2.0
PONG_S = 2 * PING_S  # two missed pings
STALL_S = 6.0
LINGER_S = 2.0  # in which a client that broke the protocol can still read why
PIECE = 1 << 20  # bytes of text decoded in one go
UNDECODED = "undecoded"  # marks a message whose text is in its bytes
READ = 4 << 10  # bytes parsed in one go: as tiny frames they are 600 objects and 5 ms
FINISH_S = 0.3  # for requests in flight when the daemon ends
SHUTDOWN_S = 2  # for uvicorn to end


class StallWatch:
    """Cuts a client that has read nothing for STALL_S although something waits for it; used by both protocols."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    disconnected = False
    _stalled: asyncio.TimerHandle | None = None

    def _watch(self) -> None:
        self._unwatch()
        if not self.disconnected:
            self._stalled = self.loop.call_later(STALL_S, self._check, self.transport.get_write_buffer_size())

    def _unwatch(self) -> None:
        if self._stalled:
            self._stalled.cancel()
            self._stalled = None

    def _check(self, before: int) -> None:
        now = self.transport.get_write_buffer_size()
        if now and now >= before:
            self.transport.abort()
        elif now:
            self._watch()


class HttpProtocol(StallWatch, H11Protocol):
    """uvicorn's HTTP protocol with a deadline for the head of a request, for which uvicorn would wait for ever.

    From its head to its answer a request belongs to the application, which answers refused ones at once.  A client that
    has read nothing of its answer for STALL_S counts as gone.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _waiting(self).enter(transport)
        transport.max_size = READ  # type: ignore[attr-defined]  # asyncio's own is 256 KiB
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            # asyncio does so only where the listening socket was made with proto=IPPROTO_TCP.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        _waiting(self).leave(self.transport)
        self._unwatch()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unwatch()

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle and not self.cycle.response_complete:
            _waiting(self).leave(self.transport)

    def send_400_response(self, msg: str) -> None:
        """Ends the connection of a client that broke the protocol.  It is told so unless an answer has begun: behind
        that there is no place for another one."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        self.transport.close()
        if self.cycle and not self.cycle.response_complete:
            self.cycle.disconnected = True  # what the application says from now on has no place either
            self.cycle.message_event.set()

    def _should_upgrade(self) -> bool:
        """Whether to upgrade; a request that cannot become a WebSocket is answered by the application."""
        return super()._should_upgrade() and fault(self.headers) is None

    def on_response_complete(self) -> None:
        if not self.transport.is_closing():
            _waiting(self).enter(self.transport, new=False)  # the next request has as long as the first
        super().on_response_complete()


class WebSocketProtocol(StallWatch, WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol with the bounds that it lacks.  HttpProtocol hands its transport over to it."""

    _heard_at = 0.0
    _failed = False
    _held = 0  # bytes of messages that are not whole, or not worked off
    _with_app = 0  # of them, those that are whole

    def connection_lost(self, exc: Exception | None) -> None:
        _waiting(self).leave(self.transport)
        self._unwatch()
        super().connection_lost(exc)
        self._weigh()

    async def run_asgi(self) -> None:
        """Watches the transport after the application's end: its `close` would wait for ever for a client that does not
        read."""
        await super().run_asgi()
        self._watch()

    async def send(self, message: ASGISendEvent) -> None:
        """Sends a message; returns when there is room for more, for uvicorn waits while the transport is paused."""
        await super().send(message)
        if message["type"] == "websocket.accept":
            _waiting(self).leave(self.transport)
            count_for(newcomer())  # no longer for all strangers of its address

    # ── what comes in ───────────────────────────────────────────────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        self._heard_at = self.loop.time()
        super().data_received(data)
        self._weigh()

    async def receive(self) -> ASGIReceiveEvent:
        """The next message, asked for once the last one is worked off."""
        if self.queue.empty():
            self._with_app = 0
            self._weigh()
        message = await super().receive()
        if message["type"] == "websocket.receive" and message.get("text") is UNDECODED:
            try:
                return {"type": "websocket.receive", "text": await decoded(message["bytes"] or b"")}
            except UnicodeDecodeError:
                if not self.close_sent:
                    self.conn.fail(CloseCode.INVALID_DATA, "not UTF-8")
                    self.handle_parser_exception()
                return {"type": "websocket.disconnect", "code": CloseCode.INVALID_DATA, "reason": "not UTF-8"}
        return message

    def _weigh(self) -> None:
        before, self._held = self._held, 0
        if not self.disconnected and not self._failed:
            self._held = self._with_app + len(self.conn.reader.buffer) + sum(map(len, self.frames))
        fits = _config(self).messages.grew(self._held - before)
        if not fits and self._held > SMALL:
            self.conn.fail(CloseCode.TRY_AGAIN_LATER, "voxd holds as many messages as it may; try again later")
            self.handle_parser_exception()
            self._with_app = 0
            self._weigh()

    def handle_cont(self, event: Frame) -> None:
        """Bounds the number of fragments: uvicorn counts only bytes, and would collect empty fragments without end."""
        if self.close_sent:
            return
        if len(self.frames) < FRAGMENT_LIMIT:
            super().handle_cont(event)
            return
        self.conn.fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
        self.handle_parser_exception()

    def send_receive_event_to_app(self) -> None:
        """Text is decoded where it is received, because a long one takes long."""
        self._with_app += sum(map(len, self.frames))
        if self.curr_msg_data_type != "text" or self.close_sent:
            super().send_receive_event_to_app()
            return
        message = {"type": "websocket.receive", "bytes": b"".join(self.frames), "text": UNDECODED}
        self.queue.put_nowait(cast(ASGIReceiveEvent, message))
        self.frames = []
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def handle_ping(self) -> None:
        """Answers a ping only if the client reads; else a flood of pings would pile up pongs."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()  # dropped; answering only the latest ping is allowed (RFC 6455, 5.5.3)

    def handle_parser_exception(self) -> None:
        """Closes so that the reason arrives: uvicorn closes at once, which is a reset while bytes are unread."""
        if self._failed:
            return
        self._failed = True
        assert self.conn.close_sent is not None
        code, reason = self.conn.close_sent.code, self.conn.close_sent.reason
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.frames = []
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        if self.close_timer is None:  # while it runs, uvicorn leaves the transport open
            self.close_timer = self.loop.call_later(LINGER_S, self.transport.close)

    # ── a client that is gone, or seems to be ───────────────────────────────────────────────────────────────────────

    def keepalive_timeout(self) -> None:
        """Takes a client that sends anything for alive: its pong may wait behind audio that is not read yet."""
        if self.read_paused or self._heard_at > self.ping_sent_at:
            self.pong_timer, self.pending_ping_payload = None, None
            self.schedule_ping()
            return
        super().keepalive_timeout()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unwatch()


async def decoded(data: bytes) -> str:
    """UTF-8, a piece at a time.  Raises UnicodeDecodeError."""
    if len(data) <= PIECE:
        return data.decode()
    decoder, pieces = codecs.getincrementaldecoder("utf-8")(), list[str]()
    for begin in range(0, len(data), PIECE):
        pieces.append(decoder.decode(data[begin : begin + PIECE]))
        await asyncio.sleep(0)
    pieces.append(decoder.decode(b"", final=True))
    return "".join(pieces)


class Config(uvicorn.Config):
    """Every setting of uvicorn.  `messages`: of all WebSockets; `tls`: the paths of certificate and key."""

    def __init__(self, app: ASGIApp, messages: Kept, tls: tuple[str, str] | None) -> None:
        self.messages = messages
        self.waiting = Handshakes()
        super().__init__(
            app,
            http=HttpProtocol,  # "auto" would take another implementation where one is installed
            h11_max_incomplete_event_size=HEAD,
            ws=WebSocketProtocol,
            ws_max_size=MESSAGE_LIMIT,
            ws_per_message_deflate=False,  # a decompression bomb needs a decompressor
            ws_ping_interval=PING_S,
            ws_ping_timeout=PONG_S,
            proxy_headers=False,  # any client on this machine could name itself anything
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_S,
            ssl_certfile=tls[0] if tls else None,
            ssl_keyfile=tls[1] if tls else None,
        )


def _config(protocol: object) -> Config:
    return cast(Config, cast(HttpProtocol, protocol).config)


def _waiting(protocol: HttpProtocol | WebSocketProtocol) -> Handshakes:
    return _config(protocol).waiting


class Server(uvicorn.Server):
    """uvicorn without its signal handlers, because the daemon stops its parts in its own order."""

    def __init__(self, app: ASGIApp, tls: tuple[str, str] | None = None, messages: Kept | None = None) -> None:
        super().__init__(Config(app, messages or Kept(MESSAGES), tls))
        self._doors: list[Door] = []

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts through `door`: uvicorn would accept all waiting connections at once, and would give a TLS handshake
        60 s."""
        await super().startup(sockets=[])
        config = self.config
        protocol = partial(HttpProtocol, config, self.server_state, self.lifespan.state)
        waiting = cast(Config, config).waiting
        self._doors = [Door(sock, protocol, config.ssl, waiting) for sock in sockets or []]
        for door in self._doors:
            door.open()

    def close_doors(self) -> None:
        """Accepts no more connections.  On a socket of systemd later ones wait for the next process, instead of being
        refused by this one: a refusal costs a client one of its few tries."""
        for door in self._doors:
            door.close()

    async def finish(self) -> None:
        """Accepts no more connections, but answers those that are here: uvicorn would drop a request that just came."""
        self.close_doors()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_S):
                await cast(Config, self.config).waiting.nobody.wait()
        for door in self._doors:
            door.finish()
        self.should_exit = True
