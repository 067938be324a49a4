"""What tests of the tunnel share: a tunnel that must leave nothing, far programs in place of voxd."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection

from tests.support.daemon import Daemon
from tests.support.sshd import Sshd, processes
from voxtui.errors import Unreachable
from voxtui.link.ssh_tunnel import Tunnel, Way
from voxtui.link.target import Address, ssh_target
from voxtui.link.websocket import dial

PATIENCE_S = 120.0


def knows(daemon: Daemon) -> dict[str, str]:
    """The environment in which `voxd tunnel` finds a daemon."""
    return {"VOXD_SERVER_SOCKET": str(daemon.socket)}


@asynccontextmanager
async def tunnel(box: Sshd, way: Way | None = None, **env: str) -> AsyncIterator[Tunnel]:
    """Closed at the end; nothing of it is left then."""
    before = asyncio.all_tasks()
    route = Tunnel(ssh_target(box.host), {**box.env, **env}, way)
    try:
        yield route
    finally:
        await route.close()
    assert asyncio.all_tasks() <= before
    assert [name for _, parent, name in processes() if parent == os.getpid() and name == "ssh"] == []


def program(folder: Path, code: str) -> dict[str, str]:
    """A far program in place of voxd."""
    path = folder / "voxd"
    path.write_text(f"#!{sys.executable}\n{textwrap.dedent(code)}")
    path.chmod(0o700)
    return {"VOXTUI_REMOTE_VOXD": str(path)}


def saying(*lines: bytes) -> str:
    return f"import sys; sys.stdout.buffer.write({b''.join(lines)!r}); sys.stdout.flush()\n"


async def session(address: Address) -> ClientConnection:
    """An open session: the far end of it is a voxd."""
    link = await dial(address, "box")
    assert json.loads(await link.recv())["type"] == "session.created"
    return link


async def works(route: Tunnel) -> list[str]:
    """What was told while a session was opened."""
    told: list[str] = []
    await (await session(await route.address(told.append))).close()
    return told


async def failure(route: Tunnel) -> Unreachable:
    with pytest.raises(Unreachable) as error:
        await route.address(lambda _: None)
    return error.value


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not done():
            await asyncio.to_thread(threading.Event().wait, 0.02)
