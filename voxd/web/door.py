"""Accepts connections a few at a time, and bounds those that are not yet upgraded or answered.  Before step 3, below
`server`.

It knows sockets, time and how to answer "not now"; not HTTP requests, WebSockets or who may come in.

    the kernel      keeps BACKLOG connections until they are accepted; clients that all return at once wait there
    a turn          of the event loop accepts BATCH of them, then sessions have theirs
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
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from voxd.system.fair_loop import Share, in_line, stranger
from voxd.system.sockets import BACKLOG
from voxd.telemetry.log import fields
from voxd.web.problem import HttpProblem

log = logging.getLogger("voxd")
BATCH = 8  # accepted in one go: some 1 ms
HANDSHAKE_S = 10.0
WAITING_LIMIT = 1024  # of one server; 64 KiB of an unfinished head each at most
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
    """A connection that is not in yet."""

    peer: str
    deadline: asyncio.TimerHandle
    new: bool  # it has had no answer yet


class Handshakes:
    """The connections that are not in yet: neither upgraded to a WebSocket nor answered.

    The oldest one makes room for a new one: an honest client needs only a moment, a hostile one stays as long as it
    can."""

    def __init__(self) -> None:
        self._entries: dict[asyncio.Transport, _Entry] = {}
        self._peers: dict[str, dict[asyncio.Transport, None]] = {}  # in order of arrival
        self.nobody = asyncio.Event()
        self.nobody.set()
        self.turned_away = LimitedWarning("connections were turned away: too many were waiting to be let in")

    def __len__(self) -> int:
        return len(self._entries)

    def enter(self, transport: asyncio.Transport, *, new: bool = True) -> None:
        """A connection that has HANDSHAKE_S from now."""
        self.leave(transport)
        if len(self._entries) >= WAITING_LIMIT:
            self._make_room()
        peer = peer_of(transport.get_extra_info("peername"))
        deadline = asyncio.get_running_loop().call_later(HANDSHAKE_S, transport.abort)
        self._entries[transport] = _Entry(peer, deadline, new)
        self._peers.setdefault(peer, {})[transport] = None
        self.nobody.clear()

    def leave(self, transport: asyncio.Transport) -> None:
        """The connection is in, or gone."""
        if entry := self._entries.pop(transport, None):
            entry.deadline.cancel()
            del self._peers[entry.peer][transport]
            if not self._peers[entry.peer]:
                del self._peers[entry.peer]
        if not self._entries:
            self.nobody.set()

    def _make_room(self) -> None:
        most = max(self._peers, key=lambda peer: len(self._peers[peer]))
        oldest = next(iter(self._peers[most]))
        new = self._entries[oldest].new
        self.leave(oldest)
        self.turned_away.count()
        if new:
            oldest.write(NOT_NOW)
            oldest.close()
        else:
            oldest.abort()


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
    """Accepts the connections of one listening socket, and gives each a protocol."""

    def __init__(
        self, sock: socket.socket, protocol: Callable[[], asyncio.Protocol], context: ssl.SSLContext | None
    ) -> None:
        self._sock, self._protocol, self._context = sock, protocol, context
        self._timer: asyncio.TimerHandle | None = None
        self._full = LimitedWarning("times no connection could be accepted: no descriptors or no memory left")
        self._strangers: WeakValueDictionary[str, Share] = WeakValueDictionary()  # by peer
        self.beginning: dict[asyncio.Task[None], None] = {}  # oldest first

    def open(self) -> None:
        self._sock.setblocking(False)
        self._sock.listen(BACKLOG)
        asyncio.get_running_loop().add_reader(self._sock, self._accept)

    def close(self) -> None:
        """Accepts no more connections; handshakes that have begun may go on."""
        if self._timer:
            self._timer.cancel()
        asyncio.get_running_loop().remove_reader(self._sock)

    def _accept(self) -> None:
        """Accepts up to BATCH connections.  An error here is one of the machine, not of a client."""
        for _ in range(BATCH):
            try:
                peer, address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self._full.count()
                self.close()
                self._timer = asyncio.get_running_loop().call_later(PAUSE_S, self.open)
                return
            peer.setblocking(False)
            if peer.fileno() >= _limit():  # the lowest that is free
                self._full.count()
                _turn_away(peer, plain=self._context is None)
                continue
            share = self._strangers.setdefault(peer_of(address), stranger())
            task = asyncio.get_running_loop().create_task(self._begin(peer), context=in_line(share))
            self.beginning[task] = None
            task.add_done_callback(self.beginning.pop)
            if self._context is not None and len(self.beginning) > WAITING_LIMIT:
                next(iter(self.beginning)).cancel()

    async def _begin(self, peer: socket.socket) -> None:
        """Makes the protocol of a connection.  A TLS handshake that fails or takes too long is not logged."""
        limit_s = HANDSHAKE_S if self._context else None
        with contextlib.ExitStack() as undone, contextlib.suppress(OSError):
            undone.callback(peer.close)
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol, peer, ssl=self._context, ssl_handshake_timeout=limit_s
            )
            undone.pop_all()


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
