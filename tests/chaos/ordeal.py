"""One run: a daemon, an honest client, a while without attacks, then the siege.  Its measurements are the Evidence for
the judge."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from shared.config import token_path
from shared.latency import percentile
from shared.settings import Settings
from tests.chaos import scribe
from tests.chaos.attacker import Target
from tests.chaos.honest import Honest
from tests.chaos.judge import FILES_LEFT, Evidence, Process
from tests.chaos.nemesis import TOKENS, track, undisturbed
from tests.chaos.nemesis_check import ENGINE, GATEWAY, History, Life
from tests.chaos.siege import Course, Orders
from tests.support import peers
from tests.support.bounds import memory, page
from tests.support.daemon import STOP_S, Daemon, voxd_process
from tests.support.service import CLOCK, pause
from voxd.commands.control import NotRunning, status
from voxd.system.token_file import load
from voxtui.link.target import Direct, parse_target

ARGUMENTS = ("--transcribe", "scribe", "--respond", "scribe", "--listen", "127.0.0.1:0")
UDP = (62_000, 62_063)
SETTINGS = {
    "VOXD_ENGINE_OPTIONS": f"{{scribe: {{tokens: {TOKENS}}}}}",
    "VOXD_WEBRTC_ENABLED": "true",
    "VOXD_WEBRTC_UDP_PORTS": f"{UDP[0]}-{UDP[1]}",
}
WORKERS = 2  # processes of attackers
LOOK_S = 20.0  # for an answer of the daemon
REST_S = 2.0  # between two attacks of a sweep
LEAVE_S = 60.0  # until nothing is left of them
APART = 1000  # addresses of one of them
SESSIONS = Settings().server.max_sessions


@dataclass(slots=True)
class Watch:
    """What a process had before it was attacked, and then."""

    name: str
    key: str  # of its pid in /status
    pid: int
    before: int
    files: int
    cpu_s: float

    @classmethod
    def begin(cls, name: str, key: str, pid: int) -> Watch:
        return cls(name, key, pid, peers.forget_peak(pid) << 10, peers.files(pid), worked(pid)())

    def end(self, pid: int | None) -> Process:
        """`pid`: of who does its work now."""
        if pid is None:
            return Process(self.name, (self.pid, 0), self.before, self.before, (self.files, self.files), 0)
        peak, files, cpu = peers.peak_kib(pid) << 10, peers.files(pid), worked(pid)() - self.cpu_s
        return Process(self.name, (self.pid, pid), self.before, peak, (self.files, files), cpu)


def worked(pid: int) -> Callable[[], float]:
    """A clock of the CPU seconds of a process; 0 when it is gone."""
    clock = ~pid << 3 | 2  # CPUCLOCK_SCHED of all its threads: what clock_getcpuclockid(3) gives

    def now_s() -> float:
        with contextlib.suppress(OSError):
            return time.clock_gettime(clock)
        return 0.0

    return now_s


@contextlib.contextmanager
def attacked() -> Iterator[tuple[Daemon, Target]]:
    """A daemon with an engine whose texts prove themselves, on a UNIX socket and, with its token, on TCP."""
    with tempfile.TemporaryDirectory(prefix="cx-", dir="/tmp") as name:
        more = SETTINGS | scribe.install(Path(name))
        with voxd_process(*ARGUMENTS, env=more) as daemon:
            listening: Any = daemon.status()["listen"]
            token = load(token_path({"HOME": str(daemon.folder)}))
            yield daemon, Target(listening[0], token, UDP)


@dataclass(frozen=True, slots=True)
class Field:
    """The scene of a run, in which the client speaks for `seconds`."""

    daemon: Daemon
    target: Target
    honest: Honest
    speaking: asyncio.Task[None]
    draw: random.Random


@contextlib.asynccontextmanager
async def field(seconds: float, seed: int) -> AsyncIterator[Field]:
    draw = random.Random(seed)
    with attacked() as (daemon, target):
        owed = await undisturbed(daemon.socket)
        sound = track(0, seconds, random.Random(draw.random()), owed)
        honest = Honest(0, Direct(parse_target(target.address), target.token), sound, worked(daemon.process.pid))
        speaking = asyncio.create_task(honest.run())
        await honest.connected.wait()
        yield Field(daemon, target, honest, speaking, draw)
        speaking.cancel()


async def ordeal(names: Sequence[str], seconds: float, calm_s: float, seed: int) -> Evidence:
    """`names` of attacks, all at once, for so long, after a while without any."""
    async with field(calm_s + seconds, seed) as on:
        await pause(calm_s)
        watches = await watched(on.daemon)
        begin_us = CLOCK.now_us()
        courses = await besieged(on.target, names, seconds, on.draw)
        end_us = CLOCK.now_us()
        await on.speaking
        after = await quiet(on.daemon, {watch.pid: watch.files for watch in watches})
        processes = [watch.end(after.get(watch.key)) for watch in watches]
        on.daemon.process.terminate()
        ended = await asyncio.to_thread(on.daemon.ended, STOP_S)
        log = on.daemon.log.read_text(errors="replace")
    return Evidence(
        history=History([on.honest.history], lives=[Life(log, killed=not ended)]),
        calm=on.honest.between(0, begin_us),
        pings=on.honest.between(begin_us, end_us),
        unanswered=on.honest.unanswered,
        processes=processes,
        bound=memory(page(), SESSIONS),
        state=str(after.get("state", "it does not answer")),
        sessions=after.get("sessions", 0) + after.get("calls", 0),
        rounds={name: course.rounds for name, course in courses.items()},
        told={name: course.told for name, course in courses.items()},
    )


async def sweep(names: Sequence[str], seconds: float, seed: int) -> AsyncIterator[str]:
    """One attack after the other on the same daemon: a line for each, of what it does."""
    async with field(len(names) * (seconds + REST_S), seed) as on:
        for name in names:
            watches = await watched(on.daemon)
            begin_us = CLOCK.now_us()
            course = (await besieged(on.target, [name], seconds, on.draw))[name]
            pings = on.honest.between(begin_us, CLOCK.now_us())
            after = await look(on.daemon)
            took = [watch.end(after.get(watch.key)) for watch in watches]
            grew = ", ".join(f"{p.name} +{p.peak - p.before >> 20} MiB {p.cpu_s:.1f} s" for p in took)
            waits = [ping.work_ms for ping in pings] or [float("nan")]
            middle, most, worst = (percentile(waits, q) for q in (50, 99, 100))
            told = ", ".join(f"{count} × {what}" for what, count in sorted(course.told.items()))
            work = f"work p50 {middle:5.1f} p99 {most:6.1f} worst {worst:6.1f} ms of {len(pings):4}"
            yield f"{name:24} {work}; {grew}; {told or 'nothing said'}"
            await pause(REST_S)


async def watched(daemon: Daemon) -> list[Watch]:
    pids = await look(daemon)
    return [Watch.begin(GATEWAY, "pid", pids["pid"]), Watch.begin(ENGINE, "engine_pid", pids["engine_pid"])]


async def look(daemon: Daemon) -> dict[str, Any]:
    """The daemon's own status; nothing if there is no daemon."""
    try:
        return dict(await asyncio.to_thread(status, daemon.socket, LOOK_S))
    except NotRunning:
        return {}


async def quiet(daemon: Daemon, files: Mapping[int, int]) -> dict[str, Any]:
    """The daemon, once nothing is left of the attackers, or after LEAVE_S.  `files`: what its processes had before."""
    end_us = CLOCK.now_us() + LEAVE_S * 1e6
    found: dict[str, Any] = {}
    while CLOCK.now_us() < end_us and daemon.process.poll() is None:
        found = await look(daemon) or found  # it may be too busy for an answer
        left = (pid for pid, before in files.items() if peers.files(pid) > before + FILES_LEFT)
        if found and not found["sessions"] and not found["calls"] and next(left, None) is None:
            break
        await pause(0.2)
    return found


async def besieged(target: Target, names: Sequence[str], seconds: float, draw: random.Random) -> dict[str, Course]:
    """Runs the attacks in processes that share them."""
    async with asyncio.TaskGroup() as tasks:
        orders = [
            Orders(target, tuple(names[number::WORKERS]), seconds, draw.randrange(1 << 30), number * APART)
            for number in range(min(WORKERS, len(names)))
        ]
        parties = [tasks.create_task(_party(each)) for each in orders]
    return {name: course for party in parties for name, course in party.result().items()}


async def _party(orders: Orders) -> dict[str, Course]:
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "tests.chaos.siege")
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, cwd=scribe.ROOT)
    try:
        told, _ = await process.communicate(msgspec.json.encode(orders))
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, f"an attack has a bug: the party of {', '.join(orders.attacks)}"
    return msgspec.json.decode(told, type=dict[str, Course])
