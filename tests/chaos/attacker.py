"""A peer that does not behave.  It knows ways to the daemon and counts what it is told; not what an attack is about."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support import peers
from tests.support.peers import Peer
from tests.support.service import CLOCK, pause

CODE = re.compile(rb'"code":\s?"(\w+)"')
PONG = 10  # an opcode
ANSWER_S = 60.0  # for an answer to a whole request
HOLD_S = 8.0  # what is held open is held so long, then let go and held again
Json = dict[str, Any]


class Denied(Exception):
    """The daemon did not let it in, or has closed."""


@dataclass(frozen=True, slots=True)
class Target:
    """The address of the daemon, for attackers with its token and without."""

    address: str  # HOST:PORT
    token: str
    udp: tuple[int, int]  # ports of its media


@dataclass(slots=True)
class Link:
    """A WebSocket of an attacker, which throws away what comes, except for its codes."""

    peer: Peer
    told: Counter[str]
    read: int = 0  # bytes
    text: bytearray = field(default_factory=bytearray)  # the first of what came

    async def send(self, *events: Json | str | bytes) -> None:
        """Sends bytes.  Raises Denied when the daemon takes no more."""
        for event in events:
            data = (
                event if isinstance(event, bytes) else (event if isinstance(event, str) else json.dumps(event)).encode()
            )
            await self.frames(peers.frame(peers.TEXT, data))

    async def frames(self, data: bytes) -> None:
        if not await self.peer.send(data):
            raise Denied("not taken")
        await asyncio.sleep(0)  # a transport that takes all at once lets nobody else have a turn

    async def stay(self, seconds: float = HOLD_S) -> None:
        """Holds what it has and seems to be alive.  Raises Denied when it is closed."""
        end_us = CLOCK.now_us() + seconds * 1e6
        while CLOCK.now_us() < end_us:
            await pause(min(1.0, seconds))
            await self.frames(peers.frame(PONG))

    async def drain(self) -> None:
        """Reads until the connection is closed."""
        with contextlib.suppress(ConnectionError):
            while data := await self.peer.reader.read(1 << 16):
                self.read += len(data)
                if len(self.text) < 4096:
                    self.text += data
                self.told.update(code.decode() for code in CODE.findall(data))

    async def found(self, pattern: bytes) -> str:
        """The first group of the pattern, once it has come."""
        async with asyncio.timeout(ANSWER_S):
            while not (match := re.search(pattern, self.text)):
                await pause(0.02)
        return match[1].decode()


class Attacker:
    """`address`: its own.  `told`: HTTP statuses and error codes, how often."""

    def __init__(self, target: Target, address: str, draw: random.Random) -> None:
        self.target, self.address, self.draw = target, address, draw
        self.told: Counter[str] = Counter()

    @property
    def key(self) -> str:
        """The header with a valid key."""
        return f"Authorization: Bearer {self.target.token}\r\n"

    @asynccontextmanager
    async def session(self, query: str = "", *, buffer: int | None = None, reads: bool = True) -> AsyncIterator[Link]:
        """A WebSocket with the right key.  Raises Denied."""
        way = peers.upgraded(
            self.target.address, path=f"/v1/realtime{query}", headers=self.key, buffer=buffer, source=self.address
        )
        async with way as peer:
            self._count(peer.head)
            if not peer.head.startswith(b"HTTP/1.1 101"):
                raise Denied("no session")
            link = Link(peer, self.told)
            reader = asyncio.create_task(link.drain()) if reads else None
            try:
                yield link
            finally:
                if reader:
                    reader.cancel()

    @asynccontextmanager
    async def line(self, *, buffer: int | None = None) -> AsyncIterator[Peer]:
        """Opens a TCP connection and sends nothing on it."""
        async with peers.tcp(self.target.address, buffer=buffer, source=self.address) as peer:
            yield peer

    def head(self, method: str, path: str, headers: str = "", *, key: bool = True) -> bytes:
        start = f"{method} {path} HTTP/1.1\r\nHost: {self.target.address}\r\n"
        return (start + (self.key if key else "") + headers + "\r\n").encode()

    async def request(
        self, method: str, path: str, body: bytes = b"", kind: str = "application/json", *, key: bool = True
    ) -> bytes:
        """Sends a whole request; returns the whole answer."""
        headers = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        async with self.line() as peer, asyncio.timeout(ANSWER_S):
            peer.writer.write(self.head(method, path, headers, key=key) + body)
            await peer.writer.drain()
            answer = await peer.reader.read(-1)
        self._count(answer)
        return answer

    async def hold(self, seconds: float = HOLD_S) -> None:
        await pause(self.draw.uniform(seconds / 2, seconds))

    def _count(self, answer: bytes) -> None:
        self.told[answer[9:12].decode("latin-1") or "no answer"] += 1
        self.told.update(code.decode() for code in CODE.findall(answer))
