"""voxtui.link.http_client: one GET, each way in which it is not answered, and how a refusal is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.fakes import refusal, short_folder
from voxtui.link.http_client import NoAnswer, complaint, get
from voxtui.link.target import Address

URL = "ws://localhost/v1/realtime"


@asynccontextmanager
async def server(answer: bytes, asked: list[bytes]) -> AsyncIterator[Path]:
    """A server that says `answer` to each client, and hangs up."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    with short_folder() as folder:
        path = folder / "voxd.sock"
        async with await asyncio.start_unix_server(talk, str(path)):
            yield path


async def test_an_answer() -> None:
    """It is asked beside the session's path with the session's token; the body ends with the connection."""
    asked: list[bytes] = []
    body = b"{" + b" " * 100_000 + b"}"
    async with server(b"HTTP/1.1 503 Busy\r\nX: y\r\n\r\n" + body, asked) as path:
        found = await get(Address("ws://far.example/gpu/v1/realtime", path, token="sesame"), "/ready")
    assert found == (503, body)
    assert asked == [b"GET /gpu/ready HTTP/1.0\r\nHost: far.example\r\nAuthorization: Bearer sesame\r\n\r\n"]


async def test_a_port() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nfine")
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        assert await get(Address(f"ws://127.0.0.1:{port}/v1/realtime"), "/health") == (200, b"fine")


async def test_nobody_and_a_closed_door_are_two_things(tmp_path: Path) -> None:
    """A forbidden tunnel takes the connection and closes it."""
    async with server(b"", []) as path:
        with pytest.raises(NoAnswer, match="without an answer"):
            await get(Address(URL, path), "/health")
    with pytest.raises(FileNotFoundError):
        await get(Address(URL, tmp_path / "none.sock"), "/health")


async def test_what_is_not_http() -> None:
    async with server(b"SSH-2.0-OpenSSH_9.9\r\n", []) as path:
        with pytest.raises(ValueError, match="does not speak HTTP"):
            await get(Address(URL, path), "/health")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": "no"}', b"\xff"])
def test_a_refusal_of_somebody_else(body: bytes) -> None:
    assert complaint(body) is None


def test_a_refusal_of_voxd() -> None:
    found = complaint(refusal("All 2 sessions are taken.", "session_limit_reached").encode())
    assert found is not None
    assert (found.message, found.code) == ("All 2 sessions are taken.", "session_limit_reached")
