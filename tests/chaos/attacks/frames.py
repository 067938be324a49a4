"""Attacks below events: bytes of TCP, HTTP and WebSocket, from many peers, with a key and without."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from tests.chaos.attacker import PONG, Attacker
from tests.support import peers

CROWD = 60  # connections of one peer at once


async def held_messages(me: Attacker) -> None:
    """A message of nearly 24 MiB that never ends."""
    async with me.session() as link:
        part = bytes(1 << 20)
        await link.frames(peers.frame(peers.TEXT, part, fin=False))
        for _ in range(22):
            await link.frames(peers.frame(0, part, fin=False))
        await link.stay(20)


async def fragments(me: Attacker) -> None:
    """A message of very many empty fragments."""
    async with me.session() as link:
        await link.frames(peers.frame(peers.TEXT, fin=False))
        for _ in range(10):
            await link.frames(peers.frame(0, b" ", fin=False) * 500)


async def broken_frames(me: Attacker) -> None:
    """Frames that are compressed, reserved, too long or not UTF-8, and a close inside of a message."""
    for bad in (
        peers.frame(peers.TEXT, b"\0" * 1000, rsv1=True),
        peers.frame(3, b"x"),
        peers.frame(peers.TEXT, b"x", length=1 << 62),
        peers.frame(peers.TEXT, b"\xff\xfe"),
        peers.frame(peers.TEXT, b"x", fin=False) + peers.frame(peers.TEXT, b"y"),
        peers.frame(peers.CLOSE, b"\x03"),
    ):
        async with me.session() as link:
            await link.frames(bad)
            await link.stay(0.5)


async def ping_frames(me: Attacker) -> None:
    """Floods of pings and of unasked pongs."""
    async with me.session() as link:
        for _ in range(40):
            await link.frames(peers.frame(peers.PING, bytes(125)) * 200 + peers.frame(PONG, bytes(125)) * 200)


async def small_messages(me: Attacker) -> None:
    """As many small messages as fit, each answered by an error two hundred times as long."""
    async with me.session() as link:
        for _ in range(10):
            await link.frames(peers.frame(peers.TEXT, b"{") * 500)


async def come_and_go(me: Attacker) -> None:
    """Sessions that are opened and dropped at once, with a close and without."""
    for number in range(20):
        async with me.session() as link:
            if number % 2:
                link.peer.reset()


async def mass_connects(me: Attacker) -> None:
    """Many connections at the same time that send nothing, again and again."""
    async with AsyncExitStack() as crowd:
        for _ in range(CROWD):
            await crowd.enter_async_context(me.line())
        await me.hold(1)


async def loris(me: Attacker) -> None:
    """A request whose header never ends."""
    async with me.line() as peer:
        await peer.send(me.head("GET", "/status", key=False)[:-2])
        while await peer.send(b"X-A: b\r\n") and not await peer.is_cut(0.5):
            pass


async def wrong_keys(me: Attacker) -> None:
    """Guesses of the key, as fast as they are answered."""
    for number in range(50):
        await me.request("GET", f"/v1/models?api_key={number}", key=False)
        path = f"/v1/realtime?n={number}"
        header = f"Authorization: Bearer {number:043}\r\n"
        async with peers.upgraded(me.target.address, path=path, headers=header, source=me.address):
            pass


async def wrong_names(me: Attacker) -> None:
    """Requests with other hosts and origins."""
    for header in ("Origin: https://evil.example", "Origin: null", "Origin: http://[::1", "Host: evil.example"):
        async with peers.upgraded(me.target.address, headers=me.key + header + "\r\n", source=me.address):
            pass


async def pipelines(me: Attacker) -> None:
    """A thousand requests in one piece, whose answers are not read."""
    async with me.line(buffer=4096) as peer:
        await peer.send(me.head("GET", "/health", key=False) * 1000)
        await me.hold(2)


async def read_pipelines(me: Attacker) -> None:
    """A thousand requests in one piece for pages that cost something, whose answers are read."""
    for path in ("/metrics", "/status", "/", "/v1/models"):
        async with me.line() as peer:
            await peer.send(me.head("GET", path) * 100)
            await peer.is_cut(2)


async def great_heads(me: Attacker) -> None:
    """Header lines without end, in number and in length."""
    for line in (b"X-A: b\r\n" * 9000, b"X-A: " + b"b" * 70_000 + b"\r\n", b"x" * 70_000, b"\0\r\n\r\n" * 999):
        async with me.line() as peer:
            await peer.send(me.head("GET", "/status")[:-2])
            await peer.send(line)
            await peer.is_cut(1)


async def great_paths(me: Attacker) -> None:
    for path in ("/v1/realtime?" + "voxd_ext=resume&" * 3000, "/" + "a/" * 15_000, "/%00%ff" * 2000):
        await me.request("GET", path)


async def crowds(me: Attacker) -> None:
    """Very many whole, honest requests at the same time."""
    await asyncio.gather(*(me.request("GET", "/status") for _ in range(CROWD)), return_exceptions=True)
