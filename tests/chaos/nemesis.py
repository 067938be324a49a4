"""Real-time clients against a real voxd while everything around them breaks: `python -m tests.chaos.nemesis --seconds
300`.

Eight clients (four transcribe, four converse; half over TCP, half over UNIX sockets) play marked speech through fault
proxies.  A seeded schedule kills and stops the gateway and the engine process, cuts, stalls, swallows, delays and
slices links, and asks for reloads where the daemon takes them.  A gateway that ended is started again as systemd would:
on sockets that stay, 2 s later, with nothing of it left.  At the end everything is healed; `tests.chaos.nemesis_check`
reads the history.  The schedule is the same for a seed, its effect is not: processes keep their own time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.audio import RATE, Int16, pcm16_to_float
from shared.events import (
    Ack,
    Pong,
    ResponseCreated,
    ResponseDone,
    SessionCreated,
    SpeechStarted,
    TranscriptionCompleted,
    TranscriptionFailed,
)
from tests.chaos import scribe
from tests.chaos.fault_proxy import Address, FaultProxy
from tests.chaos.nemesis_check import ENGINE, GATEWAY, LINK, Client, Fault, History, Mark, Record, violations
from tests.chaos.scribe import SPACING
from tests.support.service import CLOCK, Service, pause
from tests.support.speech import clip
from voxtui.capture.sources import FileSource
from voxtui.errors import ClientError
from voxtui.events import Relinked, Unlinked
from voxtui.link.client import RealtimeClient, Wishes, now_us
from voxtui.link.target import Direct, parse_target, unix_target

CLIPS = (
    "librivox_austen_0880", "librivox_austen_0930", "ps_goforward", "ps_something", "arctic_slt_a0009",
    "two_cities_1", "two_cities_2", "two_cities_5", "two_cities_7", "librivox_austen_0920",
)  # fmt: skip
CLIENTS = 8
TOKENS = 40  # of an answer, 20 ms each
SETTLE_S = 90.0  # until everything must be over when nothing breaks any more
SHOWN = 40  # broken promises, in full
SETTINGS = {
    "VOXD_ENGINE_OPTIONS": f"{{scribe: {{tokens: {TOKENS}}}}}",
    "VOXD_ENGINE_PROCESS_RESTARTS": "1000",
    "VOXD_ENGINE_PROCESS_HEARTBEAT_TIMEOUT_S": "5",
}


# ── sound ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Track:
    """What a client says: `marks` with the word's place."""

    samples: Int16
    marks: list[Mark]


def track(client: int, seconds: float, draw: random.Random, owed: dict[str, frozenset[int]]) -> Track:
    """Clips in random order with pauses between; `owed`: of each clip, which of its marks an undisturbed run says."""
    pieces: list[Int16] = []
    marks: list[Mark] = []
    size = 0
    while size < seconds * RATE:
        name = draw.choice(CLIPS)
        sound = np.frombuffer(clip(name).pcm(), "<i2").copy()
        for place, at in enumerate(range(SPACING // 2, sound.size - scribe.MARK, SPACING)):
            scribe.write(sound, at, client, len(marks))
            marks.append(Mark(f"{client}.{len(marks)}", size + at, place in owed.get(name, frozenset())))
        pieces += [sound, np.zeros(round(draw.uniform(0.8, 2.5) * RATE), np.int16)]
        size += sum(piece.size for piece in pieces[-2:])
    return Track(np.concatenate(pieces), marks)


# ── clients ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Person:
    """One client with its sound, until all of it is text or counted."""

    def __init__(self, number: int, route: Direct, sound: Track, *, answers: bool, hurry: bool = False) -> None:
        self.history = Client(number, sound.marks, TOKENS)
        self._route, self._sound, self._answers, self._hurry = route, sound, answers, hurry
        self._open: set[str] = set()
        self._given_up = 0  # samples
        self.connected = asyncio.Event()

    async def run(self) -> None:
        limit_s = self._sound.samples.size / RATE + SETTLE_S
        wishes = Wishes(answers=self._answers, instructions=None)
        try:
            async with (
                asyncio.timeout(limit_s),
                RealtimeClient.connect(self._route, wishes=wishes, live=not self._hurry) as client,
            ):
                await self._converse(client)
        except ClientError as error:
            self.history.trouble = f"gave up: {error}"
        except TimeoutError:
            waits = sorted(self._open) or "for its sound to be settled"
            self.history.trouble = f"still waits {SETTLE_S:.0f} s behind its last sound: {waits}"

    async def _converse(self, client: RealtimeClient) -> None:
        self.connected.set()
        self.history.records.append(Record(now_us(), 0, SessionCreated("the first", client.session)))
        pump = asyncio.create_task(self._speak(client))
        try:
            async for received in client:
                record = Record(received.at_us, client.position, received.event)
                if not isinstance(received.event, Ack | Pong):
                    self.history.records.append(record)
                self._follow(record)
                replay = client._replay
                if not self._open and replay._settled >= self._sound.samples.size + RATE:
                    break
        finally:
            pump.cancel()
            self._count(client)
            self.history.lost_ms = client.health.lost_ms

    async def _speak(self, client: RealtimeClient) -> None:
        source = FileSource("track", pcm16_to_float(self._sound.samples.tobytes()), hurry=self._hurry)
        async for packet in source.packets():
            await client.send_audio(packet.pcm, packet.captured_us)
            self._count(client)

    def _count(self, client: RealtimeClient) -> None:
        """What was given up since it was last asked."""
        if client._replay.lost == self._given_up:
            return
        self._given_up = client._replay.lost
        for hole in client._replay._holes:
            pieces = [hole]
            for known in self.history.holes:
                pieces = [piece for each in pieces for piece in without(each, known[0], known[1])]
            self.history.holes += [(start, end, client.position) for start, end in pieces]

    def _follow(self, record: Record) -> None:
        match record.event:
            case Relinked(fresh=True):
                self._open.clear()
            case SpeechStarted(item_id=key):
                self._open.add(key)
            case ResponseCreated(response=response):
                self._open.add(response.id)
            case TranscriptionCompleted(item_id=key) | TranscriptionFailed(item_id=key):
                self._open.discard(key)
            case ResponseDone(response=response):
                self._open.discard(response.id)


def without(piece: tuple[int, int], start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a stretch outside of [start, end)."""
    first, last = piece
    yield from ((a, b) for a, b in ((first, min(last, start)), (max(first, end), last)) if b > a)


async def undisturbed(path: Path) -> dict[str, frozenset[int]]:
    """Of each clip, the marks that are certain to be written down: those between two others of the same utterance."""
    owed: dict[str, frozenset[int]] = {}
    for name in CLIPS:
        sound = np.frombuffer(clip(name).pcm(), "<i2").copy()
        places = list(range(SPACING // 2, sound.size - scribe.MARK, SPACING))
        for number, at in enumerate(places):
            scribe.write(sound, at, 99, number)
        whole = Track(np.concatenate([sound, np.zeros(2 * RATE, np.int16)]), [])
        person = Person(99, Direct(unix_target(path)), whole, answers=False, hurry=True)
        await person.run()
        assert not person.history.trouble, person.history.trouble
        said: set[int] = set()
        for record in person.history.records:
            if isinstance(record.event, TranscriptionCompleted):
                numbers = [int(word.partition(".")[2]) for word in record.event.transcript.split()]
                said |= set(numbers[1:-1])
        owed[name] = frozenset(said)
    return owed


# ── faults ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Nemesis:
    """One fault after the other, some of them side by side; `faults` says what was done."""

    def __init__(self, service: Service, proxies: list[FaultProxy], draw: random.Random) -> None:
        self._service, self._proxies, self._draw = service, proxies, draw
        self.faults: list[Fault] = []
        self._process_free = asyncio.Lock()

    async def run(self, seconds: float) -> None:
        end_us = CLOCK.now_us() + round(seconds * 1e6)
        actions = (
            (3, self._kill_engine), (2, self._kill_gateway), (2, self._stop_engine), (2, self._stop_gateway),
            (5, self._reset), (3, self._stall), (3, self._swallow), (3, self._late), (2, self._slice),
            (2, self._reload), (1, self._long_outage),
        )  # fmt: skip
        weights, calls = [weight for weight, _ in actions], [call for _, call in actions]
        async with asyncio.TaskGroup() as tasks:
            while CLOCK.now_us() < end_us:
                await pause(self._draw.uniform(0.5, 6.0))
                call = self._draw.choices(calls, weights)[0]
                left_s = max(1.0, (end_us - CLOCK.now_us()) / 1e6)
                tasks.create_task(call(random.Random(self._draw.random()), left_s))

    @contextlib.asynccontextmanager
    async def _noted(self, kind: str, target: str, client: int | None = None) -> AsyncIterator[None]:
        begin_us = now_us()
        yield
        self.faults.append(Fault(kind, target, begin_us, now_us(), client))

    async def _on_process(self, kind: str, target: str, act: Callable[[], Awaitable[None]]) -> None:
        """Runs one fault at a time, and only on a daemon that works."""
        async with self._process_free:
            if await self._service.look() != "ready":
                return
            async with self._noted(kind, target):
                await act()
            with contextlib.suppress(TimeoutError):
                await self._service.until_ready()

    async def _kill_engine(self, draw: random.Random, left_s: float) -> None:
        await self._on_process("kill", ENGINE, self._signal(ENGINE, signal.SIGKILL))

    async def _kill_gateway(self, draw: random.Random, left_s: float) -> None:
        await self._on_process("kill", GATEWAY, self._signal(GATEWAY, signal.SIGKILL))

    async def _reload(self, draw: random.Random, left_s: float) -> None:
        if self._service.takes_reloads:
            await self._on_process("reload", GATEWAY, self._signal(GATEWAY, signal.SIGHUP))

    def _signal(self, target: str, number: signal.Signals) -> Callable[[], Awaitable[None]]:
        async def act() -> None:
            self._service.signal(target, number)

        return act

    async def _stop_engine(self, draw: random.Random, left_s: float) -> None:
        await self._stop(ENGINE, min(left_s, draw.uniform(0.5, 8)))

    async def _stop_gateway(self, draw: random.Random, left_s: float) -> None:
        await self._stop(GATEWAY, min(left_s, draw.uniform(0.5, 10)))

    async def _stop(self, target: str, seconds: float) -> None:
        async def act() -> None:
            if self._service.signal(target, signal.SIGSTOP):
                await pause(seconds)
                self._service.signal(target, signal.SIGCONT)

        await self._on_process("stop", target, act)

    async def _on_link(
        self, kind: str, draw: random.Random, begin: Callable[[FaultProxy], None], seconds: float
    ) -> None:
        number = draw.randrange(len(self._proxies))
        async with self._noted(kind, LINK, number):
            begin(self._proxies[number])
            if seconds:
                await pause(seconds)
                self._proxies[number].heal()

    async def _reset(self, draw: random.Random, left_s: float) -> None:
        await self._on_link("reset", draw, FaultProxy.reset, 0)

    async def _stall(self, draw: random.Random, left_s: float) -> None:
        await self._on_link("stall", draw, FaultProxy.stall, min(left_s, draw.uniform(0.5, 12)))

    async def _swallow(self, draw: random.Random, left_s: float) -> None:
        await self._on_link("swallow", draw, FaultProxy.swallow, min(left_s, draw.uniform(0.5, 20)))

    async def _long_outage(self, draw: random.Random, left_s: float) -> None:
        await self._on_link("long outage", draw, FaultProxy.swallow, min(left_s, draw.uniform(35, 80)))

    async def _late(self, draw: random.Random, left_s: float) -> None:
        await self._on_link("late", draw, lambda proxy: proxy.late(0.04, 0.03), min(left_s, draw.uniform(3, 15)))

    async def _slice(self, draw: random.Random, left_s: float) -> None:
        await self._on_link("slice", draw, lambda proxy: proxy.sliced(7), min(left_s, draw.uniform(1, 4)))


# ── a run ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def ordeal(seconds: float, seed: int) -> History:
    """Runs the faults once; returns the history."""
    draw = random.Random(seed)
    history = History()
    with tempfile.TemporaryDirectory(prefix="nx-", dir="/tmp") as name:
        folder = Path(name)
        async with contextlib.AsyncExitStack() as stack:
            service = await stack.enter_async_context(Service(folder, SETTINGS).running())
            owed = await undisturbed(service.path)
            proxies: list[FaultProxy] = []
            people: list[Person] = []
            for number in range(CLIENTS):
                target: Address = ("127.0.0.1", service.port) if number % 2 else service.path
                proxy = FaultProxy(target, draw.randrange(1 << 30))
                near: Address = ("127.0.0.1", 0) if number % 2 else folder / f"{number}.sock"
                address = await stack.enter_async_context(proxy.listening(near))
                found = (
                    unix_target(address) if isinstance(address, Path) else parse_target(f"{address[0]}:{address[1]}")
                )
                sound = track(number, seconds, random.Random(draw.random()), owed)
                proxies.append(proxy)
                people.append(Person(number, Direct(found), sound, answers=number % 4 < 2))
            nemesis = Nemesis(service, proxies, draw)
            async with asyncio.TaskGroup() as tasks:
                for person in people:
                    tasks.create_task(person.run())
                for person in people:
                    await person.connected.wait()  # a first link that fails is told, and not tried again
                tasks.create_task(nemesis.run(seconds))
            history.clients = [person.history for person in people]
            history.faults = nemesis.faults
        history.lives = service.lives
        return history


def summary(history: History) -> Iterator[str]:
    counts = Counter(f"{fault.kind} {fault.target}" for fault in history.faults)
    yield "faults     " + ", ".join(f"{count} × {what}" for what, count in sorted(counts.items()))
    events = [record.event for client in history.clients for record in client.records]
    finals = [event for event in events if isinstance(event, TranscriptionCompleted)]
    words = sum(len(event.transcript.split()) for event in finals)
    failed = sum(isinstance(event, TranscriptionFailed) for event in events)
    yield f"heard      {len(finals)} utterances with {words} words; {failed} told as failed"
    answers = Counter(event.response.status for event in events if isinstance(event, ResponseDone))
    yield "answers    " + ", ".join(f"{count} {status}" for status, count in sorted(answers.items()))
    back = [event for event in events if isinstance(event, Relinked)]
    fresh = sum(event.fresh for event in back)
    tries = sum(isinstance(event, Unlinked) for event in events)
    yield f"links      {len(back)} replaced ({fresh} by a new session), {tries} tries"
    owed = sum(mark.owed for client in history.clients for mark in client.marks)
    lost = ", ".join(f"client {c.number} {c.lost_ms / 1000:.1f} s" for c in history.clients if c.lost_ms)
    yield f"sound      {owed} words owed; counted as lost: {lost or 'nothing'}"


def course(history: History) -> Iterator[str]:
    """Prints faults and links in order of time."""
    begin_us = min((record.at_us for client in history.clients for record in client.records), default=0)
    lines: list[tuple[int, str]] = []
    for fault in history.faults:
        whose = "" if fault.client is None else f" of client {fault.client}"
        lines.append(
            (fault.begin_us, f"{fault.kind} {fault.target}{whose}, {(fault.end_us - fault.begin_us) / 1e6:.1f} s")
        )
    for client in history.clients:
        links = (record for record in client.records if isinstance(record.event, Unlinked | Relinked))
        lines += [(record.at_us, f"  client {client.number}: {record.event}") for record in links]
    yield from (f"{(at_us - begin_us) / 1e6:7.1f} {text}" for at_us, text in sorted(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--course", action="store_true", help="tell faults and links in order of time")
    options = parser.parse_args()
    began = time.monotonic()
    history = asyncio.run(ordeal(options.seconds, options.seed))
    found = violations(history)
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    lines = [
        f"nemesis    seed {options.seed}, {options.seconds:.0f} s, took {time.monotonic() - began:.0f} s; load {load}"
    ]
    lines += [
        *(course(history) if options.course else ()),
        *summary(history),
        f"broken     {len(found)} promises",
        *(f"  {text}" for text in found[:SHOWN]),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
