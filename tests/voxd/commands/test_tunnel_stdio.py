"""`voxd tunnel --stdio`: standard input and output of a real one carry a connection, whole and without delay."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from websockets.asyncio.client import connect

from shared.tunnel import Hello, TunnelLine, parse_line
from tests.support.daemon import environment, voxd_process
from tests.support.fakes import short_folder
from tests.voxd.commands.test_tunnel import ECHO, TUNNEL, WAIT_S, end_of, hello_of, opens, tunnel


@contextmanager
def carried(at: Path) -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    """Makes standard input and output of the child one socket, as under sshd; gives the other end."""
    ours, theirs = socket.socketpair()
    ours.settimeout(WAIT_S)
    command = [*TUNNEL, "--socket", str(at), "--stdio"]
    child = subprocess.Popen(command, stdin=theirs, stdout=theirs, env=environment(at.parent))
    theirs.close()
    try:
        yield ours, child
        ours.close()
        child.wait(WAIT_S)
    finally:
        ours.close()
        child.kill()
        child.wait()


def first_line(ours: socket.socket) -> TunnelLine | None:
    line = b""
    while not line.endswith(b"\n"):
        line += ours.recv(1)
    return parse_line(line)


async def test_it_carries_a_session() -> None:
    with voxd_process(*ECHO, "--listen", "127.0.0.1:0") as daemon, carried(daemon.socket) as (ours, child):
        hello = first_line(ours)
        assert isinstance(hello, Hello)
        assert hello.tcp is not None
        assert opens(hello.token, hello.tcp)
        ours.settimeout(None)
        async with connect("ws://localhost/v1/realtime?intent=transcription", sock=ours) as peer:
            assert json.loads(await peer.recv())["type"] == "session.created"
            await peer.send(json.dumps({"type": "session.update", "session": {"type": "transcription"}}))
            assert json.loads(await peer.recv())["type"] == "session.updated"
        assert await asyncio.to_thread(child.wait, WAIT_S) == 0


@asynccontextmanager
async def echoing(path: Path) -> AsyncIterator[None]:
    """Answers like the daemon as far as `Hello` needs it; any other connection gets its bytes back, with "the end"
    after its end."""

    status = {"version": "9", "pid": 7, "state": "ready", "progress": "", "socket": str(path), "listen": []}
    answer = json.dumps(status | {"value": "ek_x", "expires_at": 1}).encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(4)
        if first in (b"GET ", b"POST"):
            head = await reader.readuntil(b"\r\n\r\n")
            size = re.search(rb"Content-Length: (\d+)", head)
            await reader.readexactly(int(size[1]) if size else 0)  # to close with bytes unread is to reset
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
        else:
            writer.write(first)
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
            writer.write(b"the end")
        writer.close()

    async with await asyncio.start_unix_server(serve, path):
        yield


async def test_it_loses_nothing_and_closes_by_halves() -> None:
    data = secrets.token_bytes(10 << 20)
    with short_folder() as folder:
        async with echoing(folder / "s"), tunnel(folder / "s", "--stdio") as child:
            assert (await hello_of(child)).version == "9"
            assert child.stdin is not None
            assert child.stdout is not None
            sending = asyncio.create_task(send(child.stdin, data))
            async with asyncio.timeout(WAIT_S):
                came = await child.stdout.read()
            await sending
            assert came[-7:] == b"the end"
            assert len(came) == len(data) + 7
            assert came.startswith(data)
            assert await end_of(child) == 0


async def send(to: asyncio.StreamWriter, data: bytes) -> None:
    to.write(data)
    await to.drain()
    to.close()


async def test_it_passes_on_each_message_at_once() -> None:
    """A byte comes back before the next one is sent, so nothing waits for a full buffer or a line."""
    with short_folder() as folder:
        async with echoing(folder / "s"), tunnel(folder / "s", "--stdio") as child:
            await hello_of(child)
            assert child.stdin is not None
            assert child.stdout is not None
            async with asyncio.timeout(WAIT_S):
                for message in (b"data", *(bytes([n]) for n in range(200))):
                    child.stdin.write(message)
                    assert await child.stdout.readexactly(len(message)) == message


async def test_it_holds_little_when_nobody_reads() -> None:
    """The writer is stopped, and what it wrote is there for a reader that comes later."""
    with short_folder() as folder:
        async with echoing(folder / "s"):
            sent, came = await asyncio.to_thread(flood, folder / "s")
    assert len(sent) < FLOOD
    assert came == sent


FLOOD = 16 << 20


def flood(at: Path) -> tuple[bytes, bytes]:
    """Returns how much could be sent before anything was read, and what then came back."""
    data, came, sent = secrets.token_bytes(FLOOD), b"", 0
    with carried(at) as (ours, _):
        assert isinstance(first_line(ours), Hello)
        ours.settimeout(1)
        with suppress(TimeoutError):
            while sent < FLOOD:
                sent += ours.send(data[sent : sent + (1 << 16)])
        ours.settimeout(WAIT_S)
        while len(came) < sent:
            came += ours.recv(1 << 20)
    return data[:sent], came
