"""Plays a plan against one voxd: a session for each part, on an absolute clock.  Steps 1, 2 and 12, many times over.

It knows sessions, clocks and sound files; not what a figure means.  All sessions share the clips.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from shared.audio import PACKET, RATE, Truth, float_to_pcm16
from shared.latency import VoicedTruth
from voxtui.bench.machine import cpu_s
from voxtui.bench.plan import BenchPlan, Part, timetable
from voxtui.bench.tally import Result, Tally, total
from voxtui.capture.sources import PACKET_US, SILENT, Clock, Packet, WallClock, read_clip
from voxtui.errors import ClientError, SourceError
from voxtui.link.client import RealtimeClient
from voxtui.session.run import Run

SOUNDS = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".aif", ".au"}
GRACE_S = 30.0  # after its last sound a session has so long to bring what is due
OPENING = 16  # handshakes at a time: voxd bounds those that have not said who they are
LEAD_US = 200_000  # from the last handshake to the first packet

Connect = Callable[[], AbstractAsyncContextManager[RealtimeClient]]


@dataclass(frozen=True, slots=True)
class Clip:
    """One sound as s16le at 16 kHz, and where in it somebody speaks."""

    name: str
    pcm: bytes
    truth: Truth

    @property
    def samples(self) -> int:
        return len(self.pcm) // 2


def load_clips(place: Path, most: int) -> list[Clip]:
    """Reads one file, or the first `most` sound files of a folder by name.  Raises SourceError."""
    files = sorted(file for file in place.iterdir() if file.suffix.lower() in SOUNDS) if place.is_dir() else [place]
    if not files:
        raise SourceError(f"{place}: there is no sound file in this folder; wav, flac, mp3 and ogg are read.")
    return [_clip(file) for file in files[:most]]


def _clip(file: Path) -> Clip:
    samples = read_clip(file)
    truth = Truth(samples)
    if truth.first_voiced(0, samples.size) is None:
        raise SourceError(f"{file}: nobody speaks in it, so no turn could be measured; take it out of the folder.")
    return Clip(file.name, float_to_pcm16(samples), truth)


class TrackTruth:
    """Where somebody speaks in clips that follow each other; each clip is judged within its own range of loudness."""

    def __init__(self, part: Part, clips: Sequence[Clip]) -> None:
        self._placed = [(cue.at, clips[cue.clip].truth) for cue in part.cues]

    def first_voiced(self, after: int, before: int) -> int | None:
        firsts = ((at, clip.first_voiced(after - at, before - at)) for at, clip in self._placed)
        return next((at + first for at, first in firsts if first is not None), None)

    def last_voiced(self, after: int, before: int) -> int | None:
        lasts = ((at, clip.last_voiced(after - at, before - at)) for at, clip in reversed(self._placed))
        return next((at + last for at, last in lasts if last is not None), None)


class Track:
    """What one session hears: an open microphone before which the clips are played at their times.

    Its first sample begins at `start_us`; `late` is told how many ms after its time each measured packet came."""

    name = "bench"
    ends = True
    dropped = 0

    def __init__(
        self, part: Part, clips: Sequence[Clip], start_us: int, clock: Clock, late: Callable[[float], None]
    ) -> None:
        self.samples: int | None = part.samples
        self.truth: VoicedTruth = TrackTruth(part, clips)
        self._part, self._clips, self._start_us, self._clock, self._late = part, clips, start_us, clock, late

    async def packets(self) -> AsyncIterator[Packet]:
        at = 0
        while True:
            due_us = self._start_us + (at // PACKET + 1) * PACKET_US
            await self._clock.sleep_until(due_us)
            if self._part.measured <= at < self._part.samples:
                self._late((self._clock.now_us() - due_us) / 1000)
            yield Packet(at + PACKET, self._pcm(at), due_us)
            at += PACKET

    def _pcm(self, at: int) -> bytes:
        cue = self._part.cues[self._part.turn(at)]
        begin = 2 * (at - cue.at)
        pcm = self._clips[cue.clip].pcm[begin : begin + 2 * PACKET]
        return pcm.ljust(2 * PACKET, b"\0") if pcm else SILENT


class Drive:
    """One run of a plan; `tallies` fill while it runs.

    `connect` opens a session; `processes` are those of the voxd, whose CPU time is taken from the first measured packet
    to the last word."""

    def __init__(
        self,
        plan: BenchPlan,
        clips: Sequence[Clip],
        connect: Connect,
        *,
        processes: Mapping[str, int] = {},
        clock: Clock | None = None,
    ) -> None:
        self._plan, self._clips, self._connect, self._processes = plan, clips, connect, processes
        self._clock = clock or WallClock()
        self._parts = timetable(plan, [clip.samples for clip in clips])
        self.tallies = [Tally(part, plan) for part in self._parts]
        self._opening = asyncio.Semaphore(OPENING)
        self._all_tried = asyncio.Barrier(plan.sessions)
        self._start_us: int | None = None
        self._refusals: list[ClientError] = []
        self._before: tuple[int, dict[str, float]] | None = None  # time and CPU seconds at the first measured packet
        self._late_ms: list[float] = []

    async def run(self) -> Result:
        """Plays the plan to its end.  Raises the ClientError of a session if none could be opened."""
        async with asyncio.TaskGroup() as tasks:
            for part, tally in zip(self._parts, self.tallies, strict=True):
                tasks.create_task(self._session(part, tally))
        if len(self._refusals) == self._plan.sessions:
            raise self._refusals[0]
        found = total(self.tallies)
        found.late_ms = self._late_ms
        if self._before is not None:
            begun_us, before = self._before
            found.window_s = (self._clock.now_us() - begun_us) / 1_000_000
            found.cpu_s = {name: used - before[name] for name, used in cpu_s(self._processes).items() if name in before}
        return found

    async def _session(self, part: Part, tally: Tally) -> None:
        """Plays one session's turns over one connection.  All connections are open before the first packet, except in a
        ramp."""
        joins = self._plan.profile == "ramp"
        async with contextlib.AsyncExitStack() as stack:
            if joins:
                await self._clock.sleep_until(self._begin_us(part))
            client = await self._open(stack, tally)
            if not joins:
                await self._all_tried.wait()
            if client is not None:
                await self._play(client, part, tally)

    async def _open(self, stack: contextlib.AsyncExitStack, tally: Tally) -> RealtimeClient | None:
        try:
            async with self._opening:
                return await stack.enter_async_context(self._connect())
        except ClientError as error:
            self._refusals.append(error)
            tally.refused(str(error))
            return None

    async def _play(self, client: RealtimeClient, part: Part, tally: Tally) -> None:
        start_us = max(self._begin_us(part), self._clock.now_us())
        track = Track(part, self._clips, start_us, self._clock, self._late)
        try:
            async with asyncio.timeout((start_us - self._clock.now_us()) / 1_000_000 + part.samples / RATE + GRACE_S):
                run = Run(client, track, tally.receive)
                tally.meter = run.meter
                await run.run()
        except TimeoutError:
            tally.error(f"A session was not finished {GRACE_S:.0f} s after its last sound.")
        except ClientError as error:
            tally.error(str(error))

    def _late(self, ms: float) -> None:
        if self._before is None:
            self._before = self._clock.now_us(), cpu_s(self._processes)
        self._late_ms.append(ms)

    def _begin_us(self, part: Part) -> int:
        """When a session's first sample is due; the run begins when this is first asked."""
        if self._start_us is None:
            self._start_us = self._clock.now_us() + LEAD_US
        return self._start_us + part.begin_us
