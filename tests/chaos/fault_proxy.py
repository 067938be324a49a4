"""A link that can be made bad on command: between a client and a daemon, over TCP or UNIX sockets.

late      each piece arrives `delay_s` later, and up to `jitter_s` more, in order
sliced    pieces of `slice_bytes` at most
stalled   nothing passes, either way; what waits passes afterwards: a network that comes back
swallowed what is sent vanishes and the link never tells: the far end of a network that does not come back
reset     RST (on a UNIX socket: closed with data unread)
closed    nobody is let through
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.peers import reset

Address = Path | tuple[str, int]
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
PIECE = 1 << 16


@dataclass(slots=True, eq=False)
class _Link:
    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    dead: bool = False  # what it is given vanishes


class FaultProxy:
    """Connections to `target`; `seed` decides the jitter."""

    def __init__(self, target: Address, seed: int = 0) -> None:
        self.target = target
        self.delay_s = self.jitter_s = 0.0
        self.slice_bytes = PIECE
        self._random = random.Random(seed)
        self._flows, self._open = asyncio.Event(), asyncio.Event()
        self._links: set[_Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._flows.set()
        self._open.set()

    def heal(self) -> None:
        """Switches all faults off; dead links stay dead."""
        self.delay_s = self.jitter_s = 0.0
        self.slice_bytes = PIECE
        self._flows.set()
        self._open.set()

    def late(self, delay_s: float, jitter_s: float) -> None:
        self.delay_s, self.jitter_s = delay_s, jitter_s

    def sliced(self, size: int) -> None:
        self.slice_bytes = size

    def stall(self) -> None:
        self._flows.clear()

    def swallow(self) -> None:
        """Swallows everything on the present links; whoever dials meanwhile gets no answer until `heal`."""
        self._open.clear()
        for link in self._links:
            link.dead = True

    def reset(self) -> None:
        for link in tuple(self._links):
            for end in (link.near, link.far):
                if not end.transport.is_closing():
                    reset(end)

    @asynccontextmanager
    async def listening(self, address: Address) -> AsyncIterator[Address]:
        """At `address` (port 0: any); yields where."""
        if isinstance(address, Path):
            listener = await asyncio.start_unix_server(self._accept, address)
        else:
            listener = await asyncio.start_server(self._accept, *address)
        try:
            async with listener:
                name = listener.sockets[0].getsockname()
                yield address if isinstance(address, Path) else (name[0], name[1])
        finally:
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _dial(self) -> Ends:
        if isinstance(self.target, Path):
            return await asyncio.open_unix_connection(self.target)
        return await asyncio.open_connection(*self.target)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        try:
            far_reader, far_writer = await self._dial()
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, far_writer)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._carry(link, reader, far_writer))
                tasks.create_task(self._carry(link, far_reader, writer))
        finally:
            self._links.discard(link)
            for end in (writer, far_writer):
                if not end.transport.is_closing():
                    end.transport.abort()

    async def _carry(self, link: _Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(self.slice_bytes):
                await self._flows.wait()
                if self.delay_s or self.jitter_s:
                    await _after(self.delay_s + self._random.uniform(0, self.jitter_s))
                if not link.dead:
                    sink.write(data)
                    await sink.drain()
        await self._flows.wait()
        if link.dead:  # neither side hears of the other again: not even that it has gone
            await asyncio.get_running_loop().create_future()
        if sink.can_write_eof() and not sink.transport.is_closing():
            sink.transport.close()


async def _after(seconds: float) -> None:
    """A delay that belongs to the link, not a wait for something to happen."""
    passed = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, passed.set)
    await passed.wait()
