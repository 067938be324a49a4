"""Peers that do not behave: bytes on a TCP socket instead of a WebSocket client, a link that fails on command, and what
a process has taken of the machine.
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, rsv1: bool = False, length: int | None = None) -> bytes:
    """A client's frame, masked with zeros.  `length`: what the header claims instead of the truth."""
    size = len(data) if length is None else length
    first = fin << 7 | rsv1 << 6 | opcode
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, 0xFE, size)
    else:
        head = struct.pack("!BBQ", first, 0xFF, size)
    return head + bytes(4) + data


@dataclass(slots=True)
class Peer:
    """`head`: the server's answer to the upgrade."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: bytes = b""

    async def send(self, data: bytes) -> bool:
        """False when the other side has cut the connection, or takes nothing for 2 s."""
        self.writer.write(data)
        try:
            async with asyncio.timeout(2):
                await self.writer.drain()
        except (ConnectionError, TimeoutError):
            return False
        return True

    async def close_code(self, seconds: float = 60) -> int | None:
        """Reads all frames.  None: it was cut without one."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    first, size = struct.unpack("!BB", await self.reader.readexactly(2))
                    if size > 125:
                        wide = "!H" if size == 126 else "!Q"
                        (size,) = struct.unpack(wide, await self.reader.readexactly(struct.calcsize(wide)))
                    data = await self.reader.readexactly(size)
                    if first & 15 == CLOSE:
                        return int.from_bytes(data[:2], "big")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def is_cut(self, seconds: float) -> bool:
        """Waits so long at most for the end of the connection; what still comes is read."""
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(seconds):
                while await self.reader.read(1 << 16):
                    pass
                return True
            return False
        return self.reader.exception() is not None

    def reset(self) -> None:
        """RST instead of FIN."""
        reset(self.writer)


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def tcp(address: str, *, buffer: int | None = None, source: str = "") -> AsyncIterator[Peer]:
    """`buffer`: bytes that the kernel keeps for a peer that does not read; `source`: its own address."""
    host, _, port = address.rpartition(":")
    sock = socket.socket()
    if source:
        sock.bind((source, 0))
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=sock, limit=buffer or 1 << 16)
    try:
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def upgraded(
    address: str, *, path: str = "/v1/realtime", headers: str = "", buffer: int | None = None, source: str = ""
) -> AsyncIterator[Peer]:
    """A WebSocket, or what the server says instead, in `head`."""
    async with tcp(address, buffer=buffer, source=source) as peer:
        key = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{headers}\r\n"
        )
        peer.writer.write(request.encode())
        async with asyncio.timeout(60):
            peer.head = await peer.reader.readuntil(b"\r\n\r\n")
        yield peer


class Relay:
    """A TCP link to `target` (changeable for later connections) that can fall silent: no data, no FIN, no RST."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.address = ""
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.StreamWriter] = set()

    def fall_silent(self) -> None:
        self._open.clear()

    def lead_to(self, target: str) -> None:
        """New connections go there; those that are open end."""
        self.target = target
        self._cut()

    def _cut(self) -> None:
        for end in self._ends:
            end.transport.abort()
        self._ends.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        self._ends |= {writer, far_writer}
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(1 << 16):
                await self._open.wait()
                sink.write(data)
                await sink.drain()
        await self._open.wait()
        sink.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Relay]:
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            listener.close()
            self._cut()
            for task in set(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


# ── what a process has taken ────────────────────────────────────────────────────────────────────────────────────────


def memory_kib(pid: int) -> int:
    """Resident now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_KIB


def peak_kib(pid: int) -> int:
    """Resident at most since `forget_peak`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def forget_peak(pid: int) -> int:
    """The peak begins anew, at what is returned."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak_kib(pid)


def files(pid: int) -> int:
    """Open file descriptors."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
