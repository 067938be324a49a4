"""Clients that ask for a session while the engine loads wait, but not for ever, and not too many of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from typing import Any

import pytest
from websockets.asyncio.client import unix_connect

from tests.support.daemon import Daemon, voxd_process
from voxd.web import door, hold
from voxd.web.hold import HELD_LIMIT, PATHS, HoldWhileLoading


class Gateway:
    """The application behind, and whether its engine loads."""

    def __init__(self) -> None:
        self.loading = True
        self.changed = asyncio.Condition()
        self.reached: list[str] = []
        self.app = HoldWhileLoading(self, lambda: self.loading, self.changed)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached.append(scope["path"])

    def ask(self, path: str = "/v1/realtime") -> asyncio.Task[None]:
        async def never(*_: Any) -> Any:
            raise AssertionError("nothing is read or sent while it waits")

        return asyncio.create_task(self.app({"type": "websocket", "path": path}, never, never))

    async def become(self, *, loading: bool) -> None:
        async with self.changed:
            self.loading = loading
            self.changed.notify_all()


async def turns() -> None:
    """Lets everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("path", sorted(PATHS))
async def test_what_needs_an_engine_waits_for_it(path: str) -> None:
    gateway = Gateway()
    asked = gateway.ask(path)
    await turns()
    await gateway.become(loading=True)  # progress
    await turns()
    assert not gateway.reached
    await gateway.become(loading=False)
    await asked
    assert gateway.reached == [path]


async def test_nothing_else_waits() -> None:
    gateway = Gateway()
    await gateway.ask("/health")
    await gateway.become(loading=False)
    await gateway.ask()
    assert gateway.reached == ["/health", "/v1/realtime"]


async def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold, "HOLD_S", 0.01)
    gateway = Gateway()
    await gateway.ask()
    assert gateway.reached == ["/v1/realtime"], "it is for the application to refuse"


async def test_no_more_than_there_is_room_for() -> None:
    gateway = Gateway()
    asked = [gateway.ask() for _ in range(HELD_LIMIT + 3)]
    await turns()
    assert len(gateway.reached) == 3
    asked[0].cancel()  # its client is gone
    await turns()
    more = gateway.ask()
    await turns()
    assert len(gateway.reached) == 3
    await gateway.become(loading=False)
    await asyncio.gather(*asked[1:], more)
    assert len(gateway.reached) == HELD_LIMIT + 3


def test_it_ends_before_the_handshake_is_cut() -> None:
    assert hold.HOLD_S < door.HANDSHAKE_S
    assert hold.HELD_LIMIT < door.WAITING_LIMIT


async def until_it_listens(daemon: Daemon) -> None:
    """Waits until the socket accepts, which is a moment after its file is there."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                _, writer = await asyncio.open_unix_connection(str(daemon.socket))
                writer.close()
                return
            assert not await asyncio.to_thread(daemon.ended, 0.01)


async def test_a_client_that_comes_during_the_start_is_in_at_its_first_try() -> None:
    with voxd_process("--transcribe", "echo", ready=False) as daemon:
        await until_it_listens(daemon)
        async with unix_connect(str(daemon.socket), "ws://localhost/v1/realtime", open_timeout=60) as link:
            assert json.loads(await link.recv())["type"] == "session.created"


async def test_a_daemon_that_is_stopped_while_it_loads_lets_those_go_that_wait() -> None:
    with voxd_process("--transcribe", "echo", ready=False) as daemon:
        await until_it_listens(daemon)
        _, writer = await asyncio.open_unix_connection(str(daemon.socket))
        writer.write(b"GET /v1/realtime HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        writer.write(b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        daemon.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(daemon.ended, 60)
        writer.close()
        assert "Traceback" not in daemon.log.read_text()
