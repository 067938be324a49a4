"""The bad link does what it says: a fault that does nothing would make every test on it worthless."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.chaos.fault_proxy import Address, Ends, FaultProxy
from tests.support.fakes import short_folder


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def through(folder: Path, *, tcp: bool) -> AsyncIterator[tuple[FaultProxy, Ends]]:
    """A proxy before an echo, and a connection through it."""
    far: Address = folder / "far"
    if tcp:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        far = server.sockets[0].getsockname()
    else:
        server = await asyncio.start_unix_server(echo, folder / "far")
    proxy = FaultProxy(far, 1)
    near: Address = ("127.0.0.1", 0) if tcp else folder / "near"
    async with server, proxy.listening(near) as address:
        ends = await dial(address)
        try:
            yield proxy, ends
        finally:
            ends[1].transport.abort()


async def dial(address: Address) -> Ends:
    if isinstance(address, Path):
        return await asyncio.open_unix_connection(address)
    return await asyncio.open_connection(*address)


async def answered(ends: Ends, data: bytes, seconds: float = 5) -> bytes:
    """What comes back of it in time."""
    reader, writer = ends
    writer.write(data)
    got = b""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while len(got) < len(data):
                piece = await reader.read(1 << 16)
                if not piece:
                    break
                got += piece
    return got


@pytest.mark.parametrize("tcp", [True, False])
async def test_late_and_sliced_bytes_arrive_exactly_and_in_order(tcp: bool) -> None:
    data = random.Random(1).randbytes(4000)
    with short_folder() as folder:
        async with through(folder, tcp=tcp) as (proxy, ends):
            proxy.sliced(7)
            assert await answered(ends, data) == data
            proxy.heal()
            proxy.late(0.04, 0.03)
            begun = asyncio.get_running_loop().time()
            assert await answered(ends, data) == data
            assert asyncio.get_running_loop().time() - begun >= 0.08, "there and back"


@pytest.mark.parametrize("tcp", [True, False])
async def test_what_waits_in_a_stalled_link_comes_afterwards(tcp: bool) -> None:
    with short_folder() as folder:
        async with through(folder, tcp=tcp) as (proxy, ends):
            proxy.stall()
            assert await answered(ends, b"hello", 0.2) == b""
            proxy.heal()
            assert await answered(ends, b"", 0) == b""
            assert await ends[0].readexactly(5) == b"hello"


async def test_what_a_dead_link_swallows_never_comes_and_nobody_is_told() -> None:
    with short_folder() as folder:
        async with through(folder, tcp=True) as (proxy, ends):
            assert await answered(ends, b"one") == b"one"
            proxy.swallow()
            assert await answered(ends, b"two", 0.2) == b""
            proxy.heal()
            assert await answered(ends, b"three", 0.2) == b""
            assert not ends[0].at_eof()


async def test_a_reset_is_one() -> None:
    with short_folder() as folder:
        async with through(folder, tcp=True) as (proxy, ends):
            assert await answered(ends, b"one") == b"one"
            proxy.reset()
            with pytest.raises(ConnectionResetError):
                await ends[0].read()
