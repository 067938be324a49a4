"""How long a word of an answer is on its way through SSH: `python -m benchmarks.tunnel [--json FILE]`.

Two network namespaces have nothing between them but ssh and 40 ms of round trip.  A responder says a word every 20 ms,
each of them the time at which it was said; 20 ms packets of audio go up all the while.  What is measured goes before
all else that the machine does, and the routes take turns, so that what disturbs one disturbs each:

    direct     the daemon's own UNIX socket: no network is part of it
    tunnel     as voxtui does it: `voxtui.link.ssh_tunnel`, with `voxd tunnel` as the session at the far end
    stdio      the same where sshd forbids forwarding: the connection is the session's own input and output
    plain      `ssh -N -L`, the failing control: as nothing asks for a session, an sshd before 10.0 leaves Nagle's
               algorithm on, and words wait until those before them were acknowledged

Beside it: how long until a tunnel stands, until a session has begun through it, and, when its ssh is killed, until
another session has begun through the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed

from benchmarks import timestamps
from shared import events
from shared.audio import PACKET, RATE
from shared.latency import percentile
from tests.support.daemon import Daemon, voxd_process
from tests.support.netns import SERVER, Network, entered, inside, network, processes
from tests.support.sshd import Sshd, sshd
from voxtui.link.ssh_tunnel import Tunnel
from voxtui.link.target import Direct, Route, ssh_target, unix_target
from voxtui.link.websocket import dial

ONE_WAY_MS = 20.0
ROUNDS = 3  # answers by each route
TUNNELS = 5  # how often one is opened, and killed
DIRECT, TUNNEL, STDIO, PLAIN = "direct", "tunnel", "stdio", "plain"
START_S, ANSWER_S, TICK_S = 30.0, 20.0, 0.02
SILENCE = bytes(2 * PACKET)
# The client ends the turns, and never does: no answer comes unasked for.
SOUND = {"format": {"type": "audio/pcm", "rate": RATE}, "turn_detection": None}


@dataclass(slots=True)
class Outcome:
    """`words_ms`: by route, from the engine's mouth to the client's ear."""

    sshd: str
    round_trip_ms: list[float]
    words_ms: dict[str, list[float]] = field(default_factory=dict)
    stands_ms: list[float] = field(default_factory=list)  # asked for a tunnel -> it stands
    begins_ms: list[float] = field(default_factory=list)  # it stands -> a session has begun through it
    again_ms: list[float] = field(default_factory=list)  # its ssh is killed -> a session has begun through the next one

    def excess_ms(self, route: str) -> float:
        """p95 over that of the direct route and the way of the network."""
        return percentile(self.words_ms[route], 95) - percentile(self.words_ms[DIRECT], 95) - ONE_WAY_MS

    @property
    def sshd_version(self) -> tuple[int, int]:
        found = re.search(r"OpenSSH_(\d+)\.(\d+)", self.sshd)
        assert found is not None, f"no version of OpenSSH in {self.sshd!r}"
        return int(found[1]), int(found[2])


# ── the far machine ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Far:
    """A voxd, and what leads to it from the other namespace: sshd."""

    net: Network
    daemon: Daemon
    box: Sshd

    @property
    def ssh(self) -> list[str]:
        """The command with which the near machine reaches it."""
        return [*inside(self.net.client), "ssh", "-F", str(self.box.config)]

    def tunnel(self, way: Literal["unix", "stdio"] = "unix") -> Tunnel:
        return Tunnel(ssh_target(self.box.host), {"VOXTUI_SSH": " ".join(self.ssh)}, way)


@contextmanager
def far_machine(net: Network) -> Iterator[Far]:
    """The daemon itself is in no namespace of its own: it listens on a UNIX socket only, and that is a file."""
    responder = ("--transcribe", "none", "--respond", timestamps.NAME)
    with tempfile.TemporaryDirectory(prefix="vx-", dir="/tmp") as name, ExitStack() as stack:
        daemon = stack.enter_context(voxd_process(*responder, env=timestamps.environment(Path(name))))
        far, listens = {"VOXD_SERVER_SOCKET": str(daemon.socket)}, f"ListenAddress {SERVER}"
        client = (f"HostName {SERVER}", "StrictHostKeyChecking no", "LogLevel ERROR")
        with entered(net.server):  # what is started here stays there
            box = stack.enter_context(sshd(listens, client=client, far=far))
        yield Far(net, daemon, box)


def version_of_sshd() -> str:
    """Old ones do not know the question and tell in their complaint."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    assert program is not None
    done = subprocess.run([program, "-V"], capture_output=True, text=True, timeout=START_S, check=False)
    return next(line for line in (done.stdout + done.stderr).splitlines() if "OpenSSH" in line)


@asynccontextmanager
async def plain_forwarding(far: Far) -> AsyncIterator[Route]:
    near = far.box.folder / "near.sock"
    options = ["-N", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes", "-L", f"{near}:{far.daemon.socket}"]
    process = await asyncio.create_subprocess_exec(*far.ssh, *options, far.box.host)
    try:
        async with asyncio.timeout(START_S):
            while not near.exists():
                with contextlib.suppress(TimeoutError):
                    raise AssertionError(f"ssh ended with status {await asyncio.wait_for(process.wait(), TICK_S)}")
        yield Direct(unix_target(near), None)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


# ── one answer ──────────────────────────────────────────────────────────────────────────────────────────────────────


def quiet(line: str) -> None:
    """Drops the lines that a route has for people."""


async def speak(link: Connection) -> None:
    """Sends packets on time until it is cancelled."""
    loop, number = asyncio.get_running_loop(), 0
    begun = loop.time()
    while True:
        await link.send(events.dump(events.AudioAppend(SILENCE, voxd_offset=number * PACKET)).decode())
        number += 1
        wake = asyncio.Event()
        loop.call_at(begun + number * PACKET / RATE, wake.set)
        await wake.wait()


async def answer(route: Route) -> list[float]:
    """How long each word of one answer was on its way, ms."""
    taken: list[float] = []
    async with asyncio.timeout(ANSWER_S), await dial(await route.address(quiet), route.label) as link:
        await link.send(events.dump(events.SessionUpdate({"audio": {"input": SOUND}})).decode())
        speaking = asyncio.create_task(speak(link))
        try:
            await link.send(events.dump(events.ResponseCreate()).decode())
            while True:
                data = await link.recv(decode=False)
                now_us = timestamps.now_us()
                match events.parse_server(data):
                    case events.OutputTextDelta(delta=delta):
                        taken += [(now_us - int(word)) / 1000 for word in delta.split()]
                    case events.ResponseDone(response=response):
                        assert (response.status, len(taken)) == ("completed", timestamps.TOKENS)
                        return taken
                    case events.Error(error=error):
                        raise AssertionError(error.message)
        finally:
            speaking.cancel()


async def take_turns(far: Far, outcome: Outcome) -> None:
    async with plain_forwarding(far) as plain:
        tunnel, stdio = far.tunnel(), far.tunnel("stdio")
        direct = Direct(unix_target(far.daemon.socket), None)
        routes: dict[str, Route] = {DIRECT: direct, TUNNEL: tunnel, STDIO: stdio, PLAIN: plain}
        try:
            for _ in range(ROUNDS):
                for name, route in routes.items():
                    outcome.words_ms.setdefault(name, []).extend(await answer(route))
        finally:
            await tunnel.close()
            await stdio.close()


# ── one tunnel ──────────────────────────────────────────────────────────────────────────────────────────────────────


def ms_since(begun: float) -> float:
    return (time.monotonic() - begun) * 1000


async def begin(route: Route) -> Connection:
    """A session that has begun."""
    link = await dial(await route.address(quiet), route.label)
    assert isinstance(events.parse_server(await link.recv(decode=False)), events.SessionCreated)
    return link


async def open_and_kill(far: Far, outcome: Outcome) -> None:
    """Opens a session and kills the ssh under it: the link breaks, and the client asks for another one at once."""
    tunnel = far.tunnel()
    try:
        begun = time.monotonic()
        await tunnel.address(quiet)
        outcome.stands_ms.append(ms_since(begun))
        begun = time.monotonic()
        link = await begin(tunnel)
        outcome.begins_ms.append(ms_since(begun))
        for pid in processes(far.net.client):  # its ssh, and nothing else
            os.kill(pid, signal.SIGKILL)
        begun = time.monotonic()
        with contextlib.suppress(ConnectionClosed):
            while await link.recv():
                pass
        async with asyncio.timeout(ANSWER_S), await begin(tunnel):
            outcome.again_ms.append(ms_since(begun))
    finally:
        await tunnel.close()


# ── all of it ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def measure_all(far: Far, outcome: Outcome) -> None:
    await take_turns(far, outcome)
    for _ in range(TUNNELS):
        await open_and_kill(far, outcome)


@contextmanager
def undisturbed() -> Iterator[None]:
    """This process, and those that it starts, go before all ordinary ones, if the machine allows that: what else it
    does shall not be taken for a slow tunnel."""
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


def measure() -> Outcome:
    """About a minute."""
    with undisturbed(), network(ONE_WAY_MS) as net, far_machine(net) as far:
        outcome = Outcome(version_of_sshd(), net.round_trips_ms())
        asyncio.run(measure_all(far, outcome))
    return outcome


def report(outcome: Outcome) -> str:
    """The report for people, in ms."""
    lines = [
        f"sshd: {outcome.sshd}",
        f"{'':<10} {'n':>4} {'p50':>7} {'p95':>7} {'p99':>7} {'max':>7}  p95 over direct + network",
    ]
    rows = {"round trip": outcome.round_trip_ms, **outcome.words_ms}
    rows |= {"stands": outcome.stands_ms, "begins": outcome.begins_ms, "again": outcome.again_ms}
    for name, values in rows.items():
        points = " ".join(f"{percentile(values, point):7.2f}" for point in (50, 95, 99, 100))
        through_ssh = name in outcome.words_ms and name != DIRECT
        over = f"  {outcome.excess_ms(name):7.2f}" if through_ssh else ""
        lines.append(f"{name:<10} {len(values):>4} {points}{over}")
    return "\n".join(lines)


def main() -> None:
    outcome = measure()
    print(report(outcome))  # noqa: T201
    if sys.argv[1:2] == ["--json"]:
        Path(sys.argv[2]).write_text(json.dumps(asdict(outcome)) + "\n")


if __name__ == "__main__":
    main()
