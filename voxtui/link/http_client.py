"""One HTTP request to a daemon outside of a session, over the way that a session would take.  Beside step 2.

It knows addresses, the frame of an HTTP answer and how voxd words a refusal; not what an answer means, nor how long one
is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from voxtui.link.proxy import through
from voxtui.link.target import ENDPOINT, Address

BUSY_S = 5.0  # wait in front of a full queue of connections
AGAIN_S = 0.02  # until it is tried again
ANSWER_MAX = 1 << 20  # bytes of an answer; what is beyond them is not read


class NoAnswer(ConnectionError):
    """Somebody listens, and hangs up without an answer."""


class Complaint(msgspec.Struct):
    """Why a request was refused."""

    message: str
    code: str | None = None


class _Refusal(msgspec.Struct):
    error: Complaint


def complaint(body: bytes) -> Complaint | None:
    """The complaint in the body of a refusal; None if it is not voxd's."""
    try:
        return msgspec.json.decode(body, type=_Refusal).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


async def get(address: Address, path: str) -> tuple[int, bytes]:
    """Sends a GET; returns status code and body, as `exchange` does."""
    return await exchange(address, "GET", path)


async def exchange(address: Address, method: str, path: str, body: bytes = b"", kind: str = "") -> tuple[int, bytes]:
    """Sends one request with a body of this content type.  HTTP/1.0: the end of the answer is the end of the
    connection.

    Raises OSError where nobody listens (NoAnswer: hangs up), Unreachable where a proxy keeps from it, ValueError for
    what is not HTTP.  Sets no deadline."""
    parts = urlsplit(address.url)
    reader, writer = await _opened(address)
    token = f"Authorization: Bearer {address.token}\r\n" if address.token else ""
    path = f"{parts.path.removesuffix(ENDPOINT)}{path}"
    with contextlib.closing(writer):
        about = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n" if kind else ""
        writer.write(f"{method} {path} HTTP/1.0\r\nHost: {parts.netloc}\r\n{token}{about}\r\n".encode() + body)
        answer = b""
        try:
            while len(answer) < ANSWER_MAX and (more := await reader.read(ANSWER_MAX)):
                answer += more
        except OSError as error:
            raise NoAnswer("the connection is broken off before the answer") from error
    if not answer:
        raise NoAnswer("the connection is closed without an answer")
    head, _, content = answer.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) < 2 or not words[1].isdigit():
        raise ValueError("somebody answers, but does not speak HTTP")
    return int(words[1]), content


async def reached(path: Path) -> socket.socket:
    """Connects to the UNIX socket of that path.

    asyncio's own function takes a full queue of connections for a connection.  This one waits in front of a full queue,
    BUSY_S at most, then raises BlockingIOError; any other OSError at once."""
    latest = asyncio.get_running_loop().time() + BUSY_S
    while True:
        with contextlib.ExitStack() as undone:
            sock = socket.socket(socket.AF_UNIX)
            undone.callback(sock.close)
            sock.setblocking(False)
            try:
                sock.connect(str(path))
            except BlockingIOError:
                if asyncio.get_running_loop().time() > latest:
                    raise
            else:
                undone.pop_all()
                return sock
        await asyncio.sleep(AGAIN_S)


async def unix_opened(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(sock=await reached(path))


async def _opened(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.socket is not None:
        return await unix_opened(address.socket)
    if address.open is not None:
        return await asyncio.open_connection(sock=address.open)
    parts = urlsplit(address.url)
    secure = parts.scheme == "wss"
    if address.proxy is not None:
        sock, name = await through(address.proxy, address.url), parts.hostname if secure else None
        return await asyncio.open_connection(sock=sock, ssl=secure or None, server_hostname=name)
    return await asyncio.open_connection(parts.hostname, parts.port or (443 if secure else 80), ssl=secure or None)
