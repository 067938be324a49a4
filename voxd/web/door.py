"""Accepts connections a few at a time, and bounds those that are not yet upgraded or answered.  Before step 3, below
`server`.

It knows sockets, time and how to answer "not now"; not HTTP requests, WebSockets or who may come in.

    the kernel      keeps BACKLOG connections until they are accepted; clients that all return at once wait there
    a turn          of the event loop accepts BATCH of them, then sessions have theirs.  They wait as bare sockets until
                    it is their peer's turn
    not in yet      HANDSHAKE_S, and WAITING_LIMIT of them.  One more costs the oldest of that peer who has the most its
                    place: a flood from one address pushes out itself, and whoever is pushed out has had a second at
                    900 new ones a second
    descriptors     RESERVE of them are for the engine process, files and whoever is in; then one is turned away

A client that is turned away gets 503 with a Retry-After, unless it is in the middle of a TLS handshake.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import resource
import socket
import ssl
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from weakref import WeakValueDictionary

from voxd.system.fair_loop import Share, in_line, stranger
from voxd.system.sockets import BACKLOG
from voxd.telemetry.log import fields
from voxd.web.problem import HttpProblem

log = logging.getLogger("voxd")
BATCH = 8  # accepted in one go: some 1 ms
HANDSHAKE_S = 10.0
WAITING_LIMIT = 1024  # of one server
RESERVE = 64  # descriptors, or a quarter of them where there are few
READ = 64 << 10  # bytes that are read of a client that is turned away
PAUSE_S = 0.2  # before accepting again, when the machine has no resources for more connections
TELL_S = 60.0  # between two log lines about the same trouble
RETRY_S = 1
_TEXT = json.dumps(HttpProblem(503, "server_overloaded", "Too many connections at once; try again in a moment.").body)
NOT_NOW = (
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(_TEXT)}\r\nRetry-After: {RETRY_S}\r\nConnection: close\r\n\r\n{_TEXT}"
).encode()


def peer_of(address: object) -> str:
    """The clients that count as one: an IPv4 address, an IPv6 network (/64), or all clients of UNIX sockets."""
    host = str(address[0]) if isinstance(address, tuple) and address else ""
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is None:
        return str(ipaddress.ip_network((found, 64), strict=False))
    return host


@dataclass(slots=True)
class _Entry:
    """A connection that is not in yet.  `send_away`: ends it, with an answer where it can have one."""

    peer: str
    deadline: asyncio.TimerHandle
    send_away: Callable[[], object]


class Handshakes:
    """The connections that are not in yet: neither upgraded to a WebSocket nor answered.  Each is a socket while it
    waits for its protocol, and then a transport.

    The oldest one makes room for a new one: an honest client needs only a moment, a hostile one stays as long as it
    can."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}
        self._peers: dict[str, dict[Hashable, None]] = {}  # in order of arrival
        self.nobody = asyncio.Event()
        self.nobody.set()
        self.turned_away = LimitedWarning("connections were turned away: too many were waiting to be let in")

    def __len__(self) -> int:
        return len(self._entries)

    def enter(self, transport: asyncio.Transport, *, new: bool = True) -> None:
        """A connection that has HANDSHAKE_S from now.  `new`: it has had no answer yet."""
        peer = peer_of(transport.get_extra_info("peername"))
        send_away = partial(_answer_not_now, transport) if new else transport.abort
        self.arrive(transport, peer, send_away, transport.abort)

    def arrive(
        self, one: Hashable, peer: str, send_away: Callable[[], object], too_late: Callable[[], object] | None = None
    ) -> None:
        """As `enter`, for what is no transport yet.  `too_late`: what is done instead when its time is over."""
        self.leave(one)
        if len(self._entries) >= WAITING_LIMIT:
            self._make_room()
        deadline = asyncio.get_running_loop().call_later(HANDSHAKE_S, too_late or send_away)
        self._entries[one] = _Entry(peer, deadline, send_away)
        self._peers.setdefault(peer, {})[one] = None
        self.nobody.clear()

    def leave(self, one: Hashable) -> None:
        """The connection is in, or gone."""
        if entry := self._entries.pop(one, None):
            entry.deadline.cancel()
            del self._peers[entry.peer][one]
            if not self._peers[entry.peer]:
                del self._peers[entry.peer]
        if not self._entries:
            self.nobody.set()

    def _make_room(self) -> None:
        most = max(self._peers.values(), key=len)
        oldest = next(iter(most))
        send_away = self._entries[oldest].send_away
        self.leave(oldest)
        self.turned_away.count()
        send_away()


def _answer_not_now(transport: asyncio.Transport) -> None:
    transport.write(NOT_NOW)
    transport.close()


class LimitedWarning:
    """A warning that is logged at most every TELL_S, with how often it has occurred since."""

    def __init__(self, text: str) -> None:
        self._text, self._count, self._told_at = text, 0, float("-inf")

    def count(self) -> None:
        self._count += 1
        now = asyncio.get_running_loop().time()
        if now - self._told_at >= TELL_S:
            self._told_at = now
            log.warning("%d %s", self._count, self._text, extra=fields("door.full"))
            self._count = 0


class Door:
    """Accepts the connections of one listening socket, and gives each a protocol.

    What is accepted waits as a bare socket, for that costs next to nothing, until it is its peer's turn."""

    def __init__(
        self,
        sock: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext | None,
        waiting: Handshakes,
    ) -> None:
        self._sock, self._protocol, self._context, self._waiting = sock, protocol, context, waiting
        self._timer: asyncio.TimerHandle | None = None
        self._full = LimitedWarning("times no connection could be accepted: no descriptors or no memory left")
        self._strangers: WeakValueDictionary[str, Share] = WeakValueDictionary()  # by peer
        self._arrived: dict[str, dict[socket.socket, None]] = {}  # those without a protocol, by peer, oldest first
        self._beginning = set[asyncio.Task[None]]()

    def open(self) -> None:
        self._sock.setblocking(False)
        self._sock.listen(BACKLOG)
        asyncio.get_running_loop().add_reader(self._sock, self._accept)

    def close(self) -> None:
        """Accepts no more connections; handshakes that have begun may go on."""
        if self._timer:
            self._timer.cancel()
        asyncio.get_running_loop().remove_reader(self._sock)

    def finish(self) -> None:
        """Sends those away who have no protocol yet."""
        self.close()
        for peer, arrived in list(self._arrived.items()):
            for sock in list(arrived):
                self._send_away(peer, sock)
        for task in self._beginning:
            task.cancel()

    def _accept(self) -> None:
        """Accepts up to BATCH connections.  An error here is one of the machine, not of a client."""
        for _ in range(BATCH):
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self._full.count()
                self.close()
                self._timer = asyncio.get_running_loop().call_later(PAUSE_S, self.open)
                return
            sock.setblocking(False)
            if sock.fileno() >= _limit():  # the lowest that is free
                self._full.count()
                _turn_away(sock, plain=self._context is None)
                continue
            self._arrive(peer_of(address), sock)

    def _arrive(self, peer: str, sock: socket.socket) -> None:
        self._waiting.arrive(sock, peer, partial(self._send_away, peer, sock))
        if (arrived := self._arrived.get(peer)) is not None:
            arrived[sock] = None
            return
        self._arrived[peer] = {sock: None}
        share = self._strangers.setdefault(peer, stranger())
        asyncio.get_running_loop().call_soon(self._begin_one, peer, share, context=in_line(share))

    def _begin_one(self, peer: str, share: Share) -> None:
        """The oldest one of a peer, and the others when it is that peer's turn again."""
        arrived = self._arrived[peer]
        if arrived:
            sock = next(iter(arrived))
            del arrived[sock]
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._begin(sock), context=in_line(share))
            self._waiting.arrive(sock, peer, task.cancel)
            self._beginning.add(task)
            task.add_done_callback(partial(self._begun, sock))
        if arrived:
            asyncio.get_running_loop().call_soon(self._begin_one, peer, share)
        else:
            del self._arrived[peer]

    async def _begin(self, sock: socket.socket) -> None:
        """Makes the protocol of a connection.  A TLS handshake that fails or takes too long is not logged."""
        limit_s = HANDSHAKE_S if self._context else None
        with contextlib.ExitStack() as undone, contextlib.suppress(OSError):
            undone.callback(sock.close)
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol, sock, ssl=self._context, ssl_handshake_timeout=limit_s
            )
            undone.pop_all()

    def _begun(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._beginning.discard(task)
        self._waiting.leave(sock)
        if task.cancelled():  # perhaps before its first step
            sock.close()

    def _send_away(self, peer: str, sock: socket.socket) -> None:
        """One that has no protocol yet."""
        self._waiting.leave(sock)
        del self._arrived[peer][sock]
        _turn_away(sock, plain=self._context is None)


def _limit() -> int:
    """The number of the first descriptor that is kept in reserve."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return most - min(RESERVE, most // 4)


def _turn_away(peer: socket.socket, *, plain: bool) -> None:
    """Answers "not now".  What the client has sent is read first, or the system would send it a reset instead."""
    with peer, contextlib.suppress(OSError):
        if plain:
            peer.send(NOT_NOW)
            peer.shutdown(socket.SHUT_WR)
            peer.recv(READ)
