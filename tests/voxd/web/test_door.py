"""Connections before they are let in: many at once are all served, a flood displaces itself, descriptors are left
over."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import pytest

from benchmarks.ws_echo import application
from voxd.web import door
from voxd.web.door import NOT_NOW, Door, Handshakes, peer_of
from voxd.web.server import Server

PATIENCE_S = 60.0
REQUEST = b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@dataclass(eq=False)
class Transport(asyncio.Transport):
    """Keeps what is done to it."""

    host: str
    written: list[bytes] = field(default_factory=list)
    ended: str = ""

    def get_extra_info(self, name: str, default: object = None) -> object:
        return (self.host, 1) if name == "peername" else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """A door with little room."""
    assert door.WAITING_LIMIT >= 900, "at 900 new ones a second nobody is pushed out before a second has passed"
    monkeypatch.setattr(door, "WAITING_LIMIT", 20)
    return 20


async def test_the_oldest_makes_room_and_is_told(few: int) -> None:
    waiting, transports = Handshakes(), [Transport("10.0.0.1") for _ in range(few + 3)]
    for each in transports:
        waiting.enter(each)
    assert [each.ended for each in transports] == ["closed"] * 3 + [""] * few
    assert [b"".join(each.written) for each in transports] == [NOT_NOW] * 3 + [b""] * few
    for each in transports:
        waiting.leave(each)
    assert len(waiting) == 0
    assert not waiting._peers
    assert waiting.nobody.is_set()


async def test_one_that_waits_with_an_answer_behind_it_is_told_nothing_more(few: int) -> None:
    waiting, idle = Handshakes(), Transport("10.0.0.1")
    waiting.enter(idle, new=False)
    for _ in range(few):
        waiting.enter(Transport("10.0.0.1"))
    assert (idle.ended, idle.written) == ("aborted", [])


@pytest.mark.parametrize(
    ("honest", "flood"),
    [
        ("10.0.0.1", ["10.0.0.2"]),
        ("10.0.0.1", ["10.0.0.2", "10.0.0.3"]),
        ("2001:db8:1::1", [f"2001:db8:2::{number:x}" for number in range(1, 60)]),
        ("::ffff:10.0.0.1", ["::ffff:10.0.0.2"]),
    ],
    ids=["one address", "two addresses", "all addresses of a customer", "as a socket of both families has it"],
)
async def test_a_flood_pushes_out_itself(few: int, honest: str, flood: list[str]) -> None:
    waiting, slow = Handshakes(), [Transport(honest) for _ in range(3)]
    for each in slow:
        waiting.enter(each)
    for number in range(10 * few):
        waiting.enter(Transport(flood[number % len(flood)]))
    assert [each.ended for each in slow] == ["", "", ""]
    assert len(waiting) == few


def test_peers_are_told_apart_by_what_one_customer_has() -> None:
    assert peer_of(("10.0.0.1", 1)) == peer_of(("10.0.0.1", 2)) != peer_of(("10.0.0.2", 1))
    assert peer_of(("2001:db8::1", 1, 0, 0)) == peer_of(("2001:db8::2", 1, 0, 0))
    assert peer_of("") == peer_of("/run/x.sock") == peer_of(None)


# ── a real server ───────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def serving(family: str) -> AsyncIterator[tuple[Server, object]]:
    """Runs a server.  `family`: `tcp`, or the path of a UNIX socket."""
    if family == "tcp":
        listener = socket.create_server(("127.0.0.1", 0))
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(family)
    listener.listen(door.BACKLOG)
    address = listener.getsockname()
    running = Server(application())
    task = asyncio.create_task(running.serve(sockets=[listener]))
    try:
        yield running, address
    finally:
        running.should_exit = True
        await task


class Guest:
    """A connection from `source`; what it is told, to the end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def asks(self) -> bytes:
        self.writer.write(REQUEST)
        return await self.hears()

    async def hears(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read()


@asynccontextmanager
async def guest(address: object, source: str | None = None) -> AsyncIterator[Guest]:
    if isinstance(address, str):
        reader, writer = await asyncio.open_unix_connection(address)
    else:
        assert isinstance(address, tuple)
        local = (source, 0) if source else None
        reader, writer = await asyncio.open_connection(*address, local_addr=local)
    try:
        yield Guest(reader, writer)
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("family", ["tcp", "unix"])
async def test_hundreds_that_come_in_the_same_moment_are_all_answered(
    family: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """All are connected before the first one asks, more than fit into the kernel's queue."""
    where = family if family == "tcp" else f"/tmp/vd-{os.getpid()}.sock"
    try:
        async with serving(where) as (_, address), AsyncExitStack() as stack:
            guests = [await stack.enter_async_context(guest(address)) for _ in range(300)]
            answers = await asyncio.gather(*(each.asks() for each in guests))
    finally:
        if family == "unix":
            os.unlink(where)
    assert {answer.split(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}


async def test_who_is_slow_gets_in_through_a_flood_of_others(few: int) -> None:
    async with serving("tcp") as (running, address), AsyncExitStack() as stack:
        slow = await stack.enter_async_context(guest(address))
        flood = [await stack.enter_async_context(guest(address, "127.0.0.2")) for _ in range(5 * few)]
        assert (await slow.asks()).startswith(b"HTTP/1.1 200")
        told = await flood[0].hears()
        assert told.startswith(b"HTTP/1.1 503")
        assert b"Retry-After: 1\r\n" in told
        assert len(running.config.waiting) <= few  # type: ignore[attr-defined]


@contextmanager
def descriptors(more: int) -> Iterator[None]:
    """Leaves this process so many free descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="descriptors are counted in /proc")
async def test_descriptors_are_left_for_the_engine_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "RESERVE", 10)
    async with serving("tcp") as (_, address), AsyncExitStack() as stack:
        with descriptors(31):
            guests = [await stack.enter_async_context(guest(address)) for _ in range(10)]
            late = await stack.enter_async_context(guest(address))
            assert (await late.asks()).startswith(b"HTTP/1.1 503")
            for end in socket.socketpair():
                end.close()
        assert (await guests[0].asks()).startswith(b"HTTP/1.1 200")


async def test_a_machine_that_gives_no_connection_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    """asyncio alone would ask a hundred times at once and log nothing."""

    class Exhausted(socket.socket):
        left = 3

        def accept(self) -> tuple[socket.socket, object]:
            if self.left:
                self.left -= 1
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return super().accept()

    answered = asyncio.Event()

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            answered.set()
            transport.close()

    with Exhausted() as listener:
        listener.bind(("127.0.0.1", 0))
        entrance = Door(listener, Protocol, None, Handshakes())
        entrance.open()
        async with guest(listener.getsockname()):
            await asyncio.wait_for(answered.wait(), PATIENCE_S)
        entrance.close()
    assert listener.left == 0
    assert caplog.text.count("no connection could be accepted") == 1


async def test_handshakes_of_tls_are_bounded_too(few: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        waiting = Handshakes()
        entrance = Door(listener, asyncio.Protocol, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), waiting)
        entrance.open()
        async with AsyncExitStack() as stack:
            guests = [await stack.enter_async_context(guest(listener.getsockname())) for _ in range(few + 5)]
            assert await guests[0].hears() == b""
            assert len(waiting) <= few
            entrance.finish()
            await waiting.nobody.wait()
            for each in guests:
                assert await each.hears() == b""


async def test_a_flood_waits_as_bare_sockets_and_is_told_so(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is given a protocol here, as where those who are in leave no time: what is accepted costs next to nothing,
    has a bound, and an honest newcomer is not pushed out of it by a flood."""
    made: list[object] = []
    monkeypatch.setattr(Door, "_begin_one", lambda *_: None)
    with socket.create_server(("127.0.0.1", 0), backlog=door.BACKLOG) as listener:
        waiting = Handshakes()
        entrance = Door(listener, lambda: made.append(0) or asyncio.Protocol(), None, waiting)  # type: ignore[func-returns-value]
        entrance.open()
        async with AsyncExitStack() as stack:
            address = listener.getsockname()
            honest = await stack.enter_async_context(guest(address))
            flood = [await stack.enter_async_context(guest(address, "127.0.0.2")) for _ in range(20 * few)]
            told = [await each.asks() for each in flood[: 18 * few]]
            assert {text.partition(b"\r\n")[0] for text in told} == {b"HTTP/1.1 503 Service Unavailable"}
            assert len(waiting) == few
            entrance.finish()
            assert (await honest.hears()).startswith(b"HTTP/1.1 503")
            assert len(waiting) == 0
    assert not made
