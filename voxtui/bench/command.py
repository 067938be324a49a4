"""`voxtui bench` as the command line calls it: one run, two voxds compared, or how many sessions one can bear.

Not in the path.  It knows the order of the runs and how progress is shown: the text that it returns is for standard
output, its progress for standard error.  It does not know how a session is driven or what a figure means.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared.audio import RATE
from voxtui.bench.drive import Drive, load_clips
from voxtui.bench.goals import Goal, search
from voxtui.bench.machine import local_processes, machine, voxd_status
from voxtui.bench.plan import BenchPlan
from voxtui.bench.report import (
    Finding,
    Outcome,
    clean,
    comparison_text,
    judge,
    probe_line,
    progress_line,
    ratios,
    record,
    run_text,
    title,
    transports_text,
)
from voxtui.bench.tally import Result, total
from voxtui.errors import Misconfigured
from voxtui.link.client import RealtimeClient, Wishes
from voxtui.link.target import Route
from voxtui.link.transport import BY_UDP, Transport

PATIENCE_S = 10.0  # a broken link is tried for so long, as a person would wait; then the session is an error
PING_S = 1.0  # pings tell how voxd's clock differs from this one
REDRAW_S, LINE_S = 1.0, 20.0  # between two looks at how far it is: on a terminal, in a log


@dataclass(frozen=True, slots=True)
class Way:
    """One row of a bench of transports."""

    name: str
    route: Route
    transport: Transport


class ProgressLine:
    """One line on how far a run is, redrawn on a terminal and written now and then elsewhere."""

    def __init__(self, write: Callable[[str], None], *, redraws: bool) -> None:
        self._write, self._redraws = write, redraws
        self._told = ""

    def line(self, text: str) -> None:
        """Prints a line that stays.  The same line is printed once: many sessions hear the same from their voxd."""
        if text != self._told:
            self._told = text
            self._write(f"{self._wipe}{text}\n")

    @asynccontextmanager
    async def of(self, plan: BenchPlan, drive: Drive) -> AsyncIterator[None]:
        task = asyncio.create_task(self._watch(plan, drive))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._write(self._wipe)

    @property
    def _wipe(self) -> str:
        return "\r\x1b[K" if self._redraws else ""

    async def _watch(self, plan: BenchPlan, drive: Drive) -> None:
        while True:
            await asyncio.sleep(REDRAW_S if self._redraws else LINE_S)
            text = progress_line(plan, total(drive.tallies))
            self._write(f"{self._wipe}{text}" if self._redraws else f"{text}\n")


class Bench:
    """A plan together with the clips that it plays.  `audio`: a sound file, or a folder of them.

    The methods raise SourceError, and the errors of `voxtui.errors` if not one session can be had."""

    def __init__(self, plan: BenchPlan, audio: Path, progress: ProgressLine, goals: Sequence[Goal] = ()) -> None:
        self._plan, self._progress, self._goals = plan, progress, goals
        self._clips = load_clips(audio, plan.sessions + plan.each)
        self._lengths = [(clip.name, clip.samples / RATE) for clip in self._clips]
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")

    async def run(self, route: Route) -> Outcome:
        """Runs the plan once."""
        found = await self._measure(self._plan, route, self._goals)
        return Outcome(
            run_text(self._title, found), {**self._record("run", found), "passed": found.passed}, found.passed
        )

    async def compare(self, first: Route, second: Route) -> Outcome:
        """Plays half of the turns with A, all with B in two halves, the rest with A: what changes steadily on the
        machines or between them meanwhile touches both alike, and they are never loaded at the same time."""
        half = (self._plan.turns + 1) // 2
        halves = [replace(self._plan, turns=turns) for turns in (half, self._plan.turns - half) if turns]
        begun = await self._measure(halves[0], first)
        b = self._merged([await self._measure(part, second) for part in halves])
        a = self._merged([begun, *[await self._measure(part, first) for part in halves[1:]]])
        whole = self._record("compare", a, b) | {"ratio": ratios(a, b), "passed": a.passed and b.passed}
        return Outcome(comparison_text(self._title, a, b), whole, a.passed and b.passed)

    async def across(self, ways: Sequence[Way]) -> Outcome:
        """Runs the whole plan by each way of sound, one after the other.  Every way has to reach the goals."""
        found = [await self._measure(self._plan, way.route, self._goals, way) for way in ways]
        passed = all(each.passed for each in found)
        whole = self._record("transports", *found) | {"transports": [way.name for way in ways], "passed": passed}
        named = {way.name: each for way, each in zip(ways, found, strict=True)}
        return Outcome(transports_text(self._title, named, self._plan.mode), whole, passed)

    async def find_capacity(self, route: Route, goal: Goal) -> Outcome:
        """Finds the largest number of sessions, up to the plan's, with which `goal` is reached and nothing goes wrong.

        Each probe is a line of the progress; the text is about the best one."""
        probes, found = search(self._plan.sessions), []
        sessions = next(probes)
        while True:
            found.append(await self._measure(replace(self._plan, sessions=sessions), route, [goal]))
            self._progress.line(probe_line(found[-1]))
            try:
                sessions = probes.send(found[-1].passed and clean(found[-1].result.counts))
            except StopIteration as end:
                capacity: int = end.value
                break
        shown = next((each for each in found if each.sessions == capacity), found[0])
        head = title(replace(self._plan, sessions=shown.sessions), self._lengths)
        text = f"{run_text(head, shown)}\n\n{_capacity(capacity, self._plan.sessions)} with {goal}"
        whole = {**self._record("capacity", *found), "capacity": capacity, "passed": capacity > 0}
        return Outcome(text, whole, capacity > 0)

    @property
    def _title(self) -> str:
        return title(self._plan, self._lengths)

    def _record(self, kind: str, *found: Finding) -> dict[str, Any]:
        return record(kind, self._plan, self._lengths, found, machine=machine(), started_at=self._started_at)

    def _merged(self, parts: Sequence[Finding]) -> Finding:
        """Adds up runs of the same sessions that followed each other."""
        whole = Result()
        for part in parts:
            whole.add(part.result)
        return replace(parts[0], result=whole, verdicts=judge(self._goals, whole))

    async def _measure(
        self, plan: BenchPlan, route: Route, goals: Sequence[Goal] = (), way: Way | None = None
    ) -> Finding:
        transport: Transport = way.transport if way is not None else "ws"
        remarks: list[str] = []
        address = await route.address(self._progress.line)
        status = await voxd_status(address)
        drive = Drive(
            plan,
            self._clips,
            lambda: session(route, plan, self._progress.line, transport, remarks.append),
            processes=local_processes(address, status),
        )
        async with self._progress.of(plan, drive):
            result = await drive.run()
        if others := [line for line in remarks if line != BY_UDP]:
            raise Misconfigured(f"{route.label}: {others[0]}")
        return Finding(route.label, status, plan.sessions, result, judge(goals, result))


async def _ping(client: RealtimeClient) -> None:
    while True:
        await client.ping()
        await asyncio.sleep(PING_S)


@asynccontextmanager
async def session(
    route: Route,
    plan: BenchPlan,
    tell: Callable[[str], None],
    transport: Transport = "ws",
    remark: Callable[[str], None] = lambda line: None,
) -> AsyncIterator[RealtimeClient]:
    """Opens a session that can do what the plan asks.  `remark` is told which way its sound takes.  Raises the
    errors of `voxtui.errors`."""
    wishes = Wishes(answers=plan.answers, transport=transport)
    async with RealtimeClient.connect(route, wishes=wishes, tell=tell, remark=remark, patience_s=PATIENCE_S) as client:
        if plan.answers and client.responder is None:
            raise Misconfigured(
                f"{route.label} answers nobody: start it with --respond ENGINE, or use --mode transcribe."
            )
        if not plan.answers and client.transcriber is None:
            raise Misconfigured(
                f"{route.label} writes nothing down: start it with --transcribe ENGINE, or use --mode converse."
            )
        pinging = asyncio.create_task(_ping(client))
        try:
            yield client
        finally:
            pinging.cancel()
            await asyncio.gather(pinging, return_exceptions=True)


def _capacity(found: int, limit: int) -> str:
    if not found:
        return "capacity: not even one session"
    more = " or more" if found == limit else ""
    return f"capacity: {found} session{'s' if found > 1 else ''}{more}"
