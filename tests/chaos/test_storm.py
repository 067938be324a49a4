"""Many at the door: every client comes back in the same moment after a restart, and each is let in or told when to try
again; and one from far away comes while strangers flood it."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from tests.chaos.fault_proxy import FaultProxy
from tests.chaos.ordeal import attacked, besieged
from tests.support.daemon import voxd_process
from tests.support.fakes import short_folder
from voxd.web.door import BACKLOG

CLIENTS = 500
PATIENCE_S = 300.0
SETTINGS = {"VOXD_SERVER_MAX_SESSIONS": str(CLIENTS + 100), "VOXD_LOG_LEVEL": "warning"}
ARGUMENTS = "--transcribe", "echo", "--respond", "echo"
STRANGERS = ("mass_connects", "loris", "crowds", "wrong_keys", "pipelines", "great_heads")  # need no key
FLOOD_S = 15.0
WAY_S = 0.1  # there, and as long back


@contextmanager
def kept() -> Iterator[socket.socket]:
    """A socket that outlives the daemon, as systemd's do."""
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "voxd.sock"))
        listener.listen(BACKLOG)
        yield listener


async def come_in(path: str) -> tuple[ClientConnection, int]:
    """A session, and how often it was told to try again.  Whatever else it is told is an error."""
    for told in range(1000):
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        sock.connect(path)  # a queue that is full would refuse it here
        try:
            link = await connect(
                "ws://localhost/v1/realtime", sock=sock, compression=None, open_timeout=PATIENCE_S, ping_interval=None
            )
        except InvalidStatus as refusal:
            if refusal.response.status_code != 503:
                raise
            await until(time.monotonic() + float(refusal.response.headers["Retry-After"]))
            continue
        assert json.loads(await link.recv())["type"] == "session.created"
        return link, told
    raise AssertionError("told to try again for ever")


async def until(at: float) -> None:
    done = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(max(0.0, at - time.monotonic()), done.set_result, None)
    await done


async def all_come_in(path: str) -> tuple[list[ClientConnection], float]:
    begun = time.monotonic()
    async with asyncio.timeout(PATIENCE_S):
        found = await asyncio.gather(*(come_in(path) for _ in range(CLIENTS)))
    seconds = time.monotonic() - begun
    print(f"{CLIENTS} clients are in after {seconds:.1f} s; {sum(told for _, told in found)} times 503")  # noqa: T201
    return [link for link, _ in found], seconds


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE_S)
async def test_five_hundred_clients_come_back_after_a_restart() -> None:
    """Killed, and started again on the same sockets; how long it took is printed (docs/BENCH.md)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    try:
        with kept() as listener:
            path = listener.getsockname()
            with voxd_process("--listen", f"unix:{path}", *ARGUMENTS, env=SETTINGS, given=[listener]) as daemon:
                links, _ = await all_come_in(path)
                daemon.process.kill()
            with voxd_process(
                "--listen", f"unix:{path}", *ARGUMENTS, env=SETTINGS, given=[listener], ready=False
            ) as daemon:
                again, _ = await all_come_in(path)
                await asyncio.to_thread(daemon.until_ready)
                assert daemon.status()["sessions"] == CLIENTS
                assert "internal error" not in daemon.log.read_text()
            for link in (*links, *again):
                link.transport.abort()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def comes_in(where: object, token: str) -> float:
    """Seconds until somebody new has a session.  Raises whatever keeps it out."""
    assert isinstance(where, tuple)
    host, port = where
    begun = time.monotonic()
    async with connect(
        f"ws://{host}:{port}/v1/realtime",
        additional_headers={"Authorization": f"Bearer {token}"},
        compression=None,
        open_timeout=PATIENCE_S,
        ping_interval=None,
    ) as link:
        assert json.loads(await link.recv())["type"] == "session.created"
        return time.monotonic() - begun


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE_S)
@pytest.mark.skipif(sys.platform != "linux", reason="addresses of loopback")
async def test_who_is_far_away_gets_in_through_floods_of_strangers() -> None:
    """200 ms there and back: nothing is heard of a newcomer for so long after it was accepted."""
    took = list[float]()
    with attacked() as (_, target):
        host, _, port = target.address.rpartition(":")
        proxy = FaultProxy((host, int(port)))
        proxy.late(WAY_S, 0)
        async with proxy.listening(("127.0.0.1", 0)) as where:
            flood = asyncio.create_task(besieged(target, STRANGERS, FLOOD_S, random.Random(1)))
            while not flood.done():
                took.append(await comes_in(where, target.token))
            courses = await flood
    assert all(course.rounds for course in courses.values())
    assert len(took) > 3
    took = took[len(took) // 4 :]  # the flood has to start, too
    print(f"{len(took)} newcomers, in after {sorted(took)[len(took) // 2]:.2f} s, {max(took):.2f} at most")  # noqa: T201
