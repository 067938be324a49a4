"""What `voxd.web.server` adds to uvicorn, with short deadlines, and what it assumes about uvicorn."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from benchmarks.ws_echo import application
from tests.support import peers
from tests.support.peers import tcp, upgraded
from tests.support.still import Steps
from voxd.gateway.budget import Kept
from voxd.web import door, server
from voxd.web.server import HttpProtocol, Server, WebSocketProtocol

# uvicorn 0.54.0: the methods that voxd.web.server overrides or counts on, by a digest of their source.
# Another digest: read the method again beside voxd/web/server.py, run the slow tests, then write it down here.
READ: dict[Callable[..., object], str] = {
    uvicorn.Server.startup: "2aa1d70a244bfcf2",
    uvicorn.Server.shutdown: "9b33c50562992b1e",
    H11Protocol.connection_made: "6efb565ff3d36b91",
    H11Protocol.connection_lost: "dbb688fa2b386000",
    H11Protocol.data_received: "e03b145518ca44aa",
    H11Protocol.handle_events: "e63a9d1492e3efe7",
    H11Protocol.on_response_complete: "1fbb8f48c6a1afc4",
    H11Protocol.send_400_response: "56937b748fc59d92",
    H11Protocol._should_upgrade: "8d1b36a28f19bc27",
    H11Protocol.handle_websocket_upgrade: "6f42a029e35aed5c",
    WebSocketsSansIOProtocol.connection_made: "f533ec93747c2cbf",
    WebSocketsSansIOProtocol.connection_lost: "dd116afc4d8034e1",
    WebSocketsSansIOProtocol.data_received: "c89d394077d8841d",
    WebSocketsSansIOProtocol.handle_events: "b2c9351a5d13493f",
    WebSocketsSansIOProtocol.handle_cont: "d96fe1479da61beb",
    WebSocketsSansIOProtocol.handle_ping: "41bcf345d372c55c",
    WebSocketsSansIOProtocol.handle_parser_exception: "ff5cf13c764fb332",
    WebSocketsSansIOProtocol.keepalive_timeout: "8e1ceb6ec446de9d",
    WebSocketsSansIOProtocol.schedule_ping: "002da2050fd25224",
    WebSocketsSansIOProtocol.send: "d4919ed760ce9f7b",
    WebSocketsSansIOProtocol.receive: "1dc0e715390021a1",
    WebSocketsSansIOProtocol.run_asgi: "662375aa38d9044c",
    WebSocketsSansIOProtocol.send_receive_event_to_app: "a2b10de91477dc1d",
}


def digest(method: Callable[..., object]) -> str:
    return hashlib.sha256(inspect.getsource(method).encode()).hexdigest()[:16]


@pytest.mark.parametrize("method", READ, ids=lambda method: method.__qualname__)
def test_uvicorn_is_as_it_was_when_its_methods_were_overridden(method: Callable[..., object]) -> None:
    assert digest(method) == READ[method], f"read {method.__qualname__} again (uvicorn {uvicorn.__version__})"


def test_every_overridden_method_was_read() -> None:
    bases = {HttpProtocol: H11Protocol, WebSocketProtocol: WebSocketsSansIOProtocol, Server: uvicorn.Server}
    known = {method.__qualname__ for method in READ} | {"Server.__init__", "Server.capture_signals"}
    trivial = {f"{base.__name__}.{name}_writing" for base in bases.values() for name in ("pause", "resume")}
    for mine, base in bases.items():
        overridden = {f"{base.__name__}.{name}" for name, each in vars(mine).items() if callable(each)}
        inherited = {each for each in overridden if hasattr(base, each.partition(".")[2])}
        assert inherited <= known | trivial


@asynccontextmanager
async def serving(
    tls: tuple[str, str] | None = None, messages: Kept | None = None
) -> AsyncIterator[tuple[Server, str]]:
    listener = socket.create_server(("127.0.0.1", 0))
    running = Server(application(), tls, messages)
    task = asyncio.create_task(running.serve(sockets=[listener]))
    try:
        yield running, f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        running.should_exit = True
        await task


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets deadlines of a tenth of a second and a little more."""
    for name in ("STALL_S", "LINGER_S"):
        monkeypatch.setattr(server, name, 0.2)
    monkeypatch.setattr(door, "HANDSHAKE_S", 0.2)
    monkeypatch.setattr(server, "PING_S", 0.1)
    monkeypatch.setattr(server, "PONG_S", 0.2)


# ── a request that does not end ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET /status HTTP/1.1\r\nHost: x\r\n",
        b"POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\nx",
        b"GET /status HTTP/1.1\r\nHost: x\r\n\r\nGET /status HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + b"X: y\r\n" * 500 + b"\r\n",
    ],
    ids=[
        "nothing",
        "half a head",
        "half a body",
        "half of a second request",
        "an upgrade that websockets cannot parse",
    ],
)
@pytest.mark.usefixtures("hurried")
async def test_an_unfinished_request_is_cut_at_its_deadline(begun: bytes) -> None:
    async with serving() as (running, address), tcp(address) as peer:
        await peer.send(begun)
        assert await peer.is_cut(3)
        assert len(running.config.waiting) == 0  # type: ignore[attr-defined]


@pytest.mark.usefixtures("hurried")
async def test_an_answer_may_take_longer_than_a_request() -> None:
    async with serving() as (running, address), tcp(address) as peer:
        await peer.send(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not await peer.is_cut(0.5)
        assert len(running.config.waiting) == 0  # type: ignore[attr-defined]


@pytest.mark.usefixtures("hurried")
async def test_a_websocket_that_is_in_has_no_deadline() -> None:
    async with serving() as (running, address), upgraded(address) as peer:
        assert b"101" in peer.head
        assert len(running.config.waiting) == 0  # type: ignore[attr-defined]


# ── messages ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_message_may_have_4096_fragments_and_no_more() -> None:
    async with serving() as (_, address):
        most = peers.frame(peers.TEXT, b"x", fin=False) + peers.frame(0, b"x", fin=False) * (server.FRAGMENT_LIMIT - 2)
        last = peers.frame(0, b"x")
        async with upgraded(address) as peer:
            await peer.send(most + last + peers.frame(peers.CLOSE, (1000).to_bytes(2, "big")))
            assert await peer.close_code() == 1000
        async with upgraded(address) as peer:
            await peer.send(most + peers.frame(0, b"x", fin=False) + last)
            assert await peer.close_code() == 1009


async def test_unfinished_messages_of_all_are_bounded_and_small_ones_still_come() -> None:
    held = Kept(server.SMALL * 2)
    async with serving(messages=held) as (_, address), upgraded(address) as one, upgraded(address) as other:
        size = server.SMALL * 4
        await one.send(peers.frame(peers.TEXT, bytes(size // 3), length=size))
        await other.send(peers.frame(peers.TEXT, bytes(size // 3), length=size))
        first, *_ = await asyncio.wait(
            [asyncio.create_task(peer.close_code(60)) for peer in (one, other)], return_when=asyncio.FIRST_COMPLETED
        )
        assert first.pop().result() == 1013
        async with upgraded(address) as third:
            await third.send(peers.frame(peers.TEXT, b"x" * 1000) + peers.frame(peers.CLOSE, b"\x03\xe8"))
            assert await third.close_code(60) == 1000
    assert held.now == 0, "nothing is held for who is gone"


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe",
        b"x" * 3 * server.PIECE + b"\xff",
        b"x" * (2 * server.PIECE - 1) + b"\xc3",
        b"\xff" * 3 * server.PIECE,
    ],
    ids=["short", "at the end of a long one", "half a character at the end", "all of a long one"],
)
async def test_text_that_is_not_utf_8_is_refused_without_a_traceback(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as (_, address), upgraded(address) as peer:
        await peer.send(peers.frame(peers.TEXT, data))
        assert await peer.close_code() == 1007
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("text", ["a\u00e9", "\u20acb", "\U0001f600", "plain"])
async def test_long_text_is_decoded_in_pieces_and_is_what_it_was(text: str) -> None:
    """Characters lie across the pieces."""
    long = "x" + text * (3 * server.PIECE // len(text.encode()))
    steps = Steps()
    found = list[str]()

    async def read() -> None:
        found.append(await server.decoded(long.encode()))

    steps.run(read().__await__())
    assert found == [long]
    assert steps.count >= 3
    with pytest.raises(UnicodeDecodeError):
        await server.decoded(long.encode()[:-1] + b"\xff")


@pytest.mark.parametrize(
    ("path", "answered", "told"),
    [("/status", True, b""), ("/late", False, b"HTTP/1.1 400"), ("/late", True, b"HTTP/1.1 400")],
    ids=["an answer has been sent", "none yet", "none yet, and a part of the body has come"],
)
async def test_a_body_that_breaks_the_protocol_ends_its_connection_without_a_traceback(
    path: str, answered: bool, told: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Refused requests are answered before their body has come; the rest of it may be anything."""
    async with serving() as (_, address), tcp(address) as peer, asyncio.timeout(60):
        await peer.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        if answered:
            await peer.send(b"1\r\nx\r\n")
        if not told:
            assert (await peer.reader.readuntil(b"naive server")).startswith(b"HTTP/1.1 200")
        await peer.send(b"this is no length\r\n")
        assert (await peer.reader.read()).startswith(told or b"")
    assert [each for each in caplog.messages if "internal" in each or "Exception" in each] == []
    assert "Traceback" not in caplog.text


async def test_a_flood_of_tiny_messages_is_parsed_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is parsed in one go is in memory at once, while everybody else waits."""
    sizes, real = [], WebSocketProtocol.data_received

    def measured(protocol: WebSocketProtocol, data: bytes) -> None:
        sizes.append(len(data))
        real(protocol, data)

    monkeypatch.setattr(WebSocketProtocol, "data_received", measured)
    async with serving() as (_, address), upgraded(address) as peer:
        await peer.send(peers.frame(peers.TEXT) * 50_000 + peers.frame(peers.CLOSE, (1000).to_bytes(2, "big")))
        assert await peer.close_code() == 1000
    assert max(sizes) <= server.READ


async def test_small_messages_leave_at_once() -> None:
    """TCP_NODELAY is on; without it a delta would wait for the acknowledgement of the one before it."""
    async with serving() as (running, address), upgraded(address):
        (protocol,) = running.server_state.connections
        sock = protocol.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_proxy_header_renames_nobody() -> None:
    """Otherwise a client over loopback could choose its own address in the log."""
    clients = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        clients.append(scope["client"][0])

    listener = socket.create_server(("127.0.0.1", 0))
    running = Server(app)
    task = asyncio.create_task(running.serve(sockets=[listener]))
    async with tcp(f"127.0.0.1:{listener.getsockname()[1]}") as peer:
        await peer.send(b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 8.8.8.8\r\nConnection: close\r\n\r\n")
        assert await peer.is_cut(3)
    running.should_exit = True
    await task
    assert clients == ["127.0.0.1"]


# ── peers that are gone ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("hurried")
async def test_a_peer_that_answers_no_ping_is_gone() -> None:
    async with serving() as (running, address), upgraded(address) as peer:
        assert await peer.close_code(3) == 1011
        await _all_gone(running)


@pytest.mark.usefixtures("hurried")
async def test_a_peer_that_sends_is_there_even_if_it_answers_no_ping() -> None:
    """Its pong may wait behind audio that the server does not read yet."""
    async with serving() as (_, address), upgraded(address) as peer:
        for _ in range(12):
            assert not await peer.is_cut(0.1)
            await peer.send(peers.frame(peers.TEXT, b"x"))


@pytest.mark.usefixtures("hurried")
async def test_a_peer_that_takes_nothing_is_gone_even_if_it_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WebSocketProtocol, "keepalive_timeout", lambda protocol: None)
    async with serving() as (running, address), upgraded(address, buffer=4096) as peer:
        while await peer.send(peers.frame(peers.BINARY, bytes(1 << 20))):
            pass
        await _all_gone(running)


async def _all_gone(running: Server) -> None:
    """Whether both the connection and the application that served it are gone."""
    if running.server_state.tasks:
        await asyncio.wait(running.server_state.tasks, timeout=60)
    assert not running.server_state.tasks
    assert not running.server_state.connections


@pytest.mark.usefixtures("hurried")
async def test_a_tls_handshake_has_the_same_deadline() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    running = Server(application())
    running.config.load()
    running.config.ssl = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # no certificate: it never gets as far as to show one
    task = asyncio.create_task(running.serve(sockets=[listener]))
    async with tcp(f"127.0.0.1:{listener.getsockname()[1]}") as peer:
        assert await peer.is_cut(3)
    running.should_exit = True
    await task
