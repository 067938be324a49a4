"""Small proxies on this machine: HTTP CONNECT and SOCKS 5, which lead every name to one place."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
OPENED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@dataclass
class Proxied:
    """`asked`: what each client said to the proxy, to the end of its head."""

    port: int = 0
    asked: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def http_proxy(to: int = 0, answer: bytes | None = None) -> AsyncIterator[Proxied]:
    """Whatever is asked for is the port `to` of this machine.  `answer`: said instead, and then it hangs up."""
    proxied = Proxied()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        proxied.asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OPENED if answer is None else answer)
        return answer is None

    async with _proxy(proxied, to, greet):
        yield proxied


@asynccontextmanager
async def socks_proxy(to: int) -> AsyncIterator[Proxied]:
    """SOCKS 5 (RFC 1928) for names, without authentication."""
    proxied = Proxied()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await reader.readexactly((await reader.readexactly(2))[1])
        writer.write(b"\x05\x00")
        head = await reader.readexactly(5)
        proxied.asked.append(await reader.readexactly(head[4]))
        await reader.readexactly(2)
        writer.write(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
        return True

    async with _proxy(proxied, to, greet):
        yield proxied


@asynccontextmanager
async def _proxy(proxied: Proxied, to: int, greet: object) -> AsyncIterator[None]:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            if not await greet(reader, writer):  # type: ignore[operator]
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", to)
            with contextlib.closing(far_writer):
                ways = [asyncio.ensure_future(_carried(*way)) for way in ((reader, far_writer), (far_reader, writer))]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    proxied.port = server.sockets[0].getsockname()[1]
    try:
        yield
    finally:
        server.close()


async def _carried(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
