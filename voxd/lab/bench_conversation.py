"""`voxd bench-engine` for conversations: one, many at once, many beside live streams.  Not in the packet's path.

People speak in real time and are answered; nobody waits for a slow engine.  The time to a first token counts from the
moment at which the turn is known to be over, whenever the engine was told.  It knows the engine only by its messages.
"""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from shared.audio import RATE, VAD_FRAME
from voxd.engine.contract import EngineCommand
from voxd.engine.mini.engine import VoxtralMini
from voxd.engine.mini.interface import MiniDevice
from voxd.engine.realtime.interface import RealtimeDevice, RealtimeOptions
from voxd.lab.bench_realtime import Crowd, frame_times, percentiles
from voxd.messages import (
    Audio,
    Close,
    Commit,
    Feed,
    Heard,
    Onset,
    Open,
    Output,
    Prepare,
    Respond,
    Said,
    Settled,
    Speculate,
    Turn,
)

PACKET = 1280  # samples: 80 ms
PACKET_S = PACKET / RATE
TOLD, TENTATIVE, OVER = 2, 2, 6  # packets: after the onset it is told; after the end it seems over; it is over
PREFILL_EVERY_S, PREFILL_SEEN_S = 1.0, 0.3


@dataclass(frozen=True, slots=True)
class Habit:
    """How people speak, in packets, and how long they are answered, in tokens."""

    speaks: int = 62  # 5 s
    every: int = 187  # 15 s
    answer: int = 64


@dataclass(slots=True)
class TimedAnswer:
    """When one answer was due and when its text came."""

    due: float  # when the turn was over, s
    said: list[float] = field(default_factory=list)  # when text of it came
    tokens: int = 0
    settled: bool = False


def engine_of(device: MiniDevice) -> VoxtralMini:
    engine = VoxtralMini({}, lambda: None, lambda options, progress: device)
    engine.load(lambda text: None)
    return engine


def noise(samples: int, seed: int = 0) -> bytes:
    return (1000 * np.random.default_rng(seed).standard_normal(samples)).astype("<i2").tobytes()


# ── one conversation ────────────────────────────────────────────────────────────────────────────────────────────────


class Caller:
    """One person after the other, each of whom speaks at once.  Between two the engine's clock goes on by seconds, so
    that it does not think itself busy."""

    def __init__(self, device: MiniDevice, habit: Habit) -> None:
        self._engine, self._habit = engine_of(device), habit
        self._stream = 0

    def turn(self, *, ahead: bool) -> tuple[float, float]:
        """Milliseconds from the end of a turn to the first token of its answer, and to its end.  `ahead`: the engine
        was told that it seems over, and had the time to begin."""
        self._stream += 1
        stream, end, most = self._stream, self._habit.speaks * PACKET, self._habit.answer
        context = (Turn("user", ref=1),)
        tell(self._engine, Open(stream, ("respond",)), Feed(stream, 0, noise(end)))
        tell(self._engine, Heard(stream, 0, (1.0,) * (end // VAD_FRAME)))
        self._step()
        tell(self._engine, Onset(stream, 1, 0), Prepare(stream, 1, ()))
        self._rest()
        if ahead:
            tell(self._engine, Speculate(stream, 2, 1, end, context, most))
            self._rest()
        began = time.perf_counter()
        tell(self._engine, Commit(stream, 1, end), Respond(stream, 2, context, most))
        first: float | None = None
        while True:
            outputs = list(self._step())
            passed = 1000 * (time.perf_counter() - began)
            if first is None and any(isinstance(output, Said) for output in outputs):
                first = passed
            if any(isinstance(output, Settled) for output in outputs):
                tell(self._engine, Close(stream))
                return first or passed, passed

    def _step(self) -> Iterable[Output]:
        return self._engine.step(int((time.perf_counter() + 5 * self._stream) * 1e6))

    def _rest(self) -> None:
        """At least one step, so that the engine has taken up what it was told."""
        list(self._step())
        while self._engine.deadline_us is not None:
            list(self._step())


def tell(engine: VoxtralMini, *commands: EngineCommand) -> None:
    for command in commands:
        engine.receive(command)


def alone(device: MiniDevice, habit: Habit, times: int) -> dict[str, object]:
    """One person; without and with an answer begun ahead."""
    caller, found = Caller(device, habit), dict[str, object]()
    for name, ahead in (("after_commit", False), ("begun_ahead", True)):
        turns = [caller.turn(ahead=ahead) for _ in range(times + 2)][2:]
        firsts, wholes = zip(*turns, strict=True)
        found[name] = {"first_token_ms": percentiles(firsts), "whole_ms": percentiles(wholes)}
    return {"tokens": habit.answer, **found}


# ── many ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Conversations:
    """Many people who speak in packets of 80 ms, each beginning at another time; pauses are fed, too."""

    def __init__(self, engine: VoxtralMini, count: int, seconds: float, habit: Habit, *, ahead: bool) -> None:
        rng = random.Random(0)
        self.engine, self.answers = engine, dict[tuple[int, int], TimedAnswer]()
        self._seconds, self._habit, self._ahead = seconds, habit, ahead
        self._pcm = noise(PACKET)
        self._contexts: list[list[Turn]] = [[] for _ in range(count)]
        self._phases = [rng.random() * habit.every * PACKET_S for _ in range(count)]
        for number in range(count):
            engine.receive(Open(number, ("respond",)))
        self._due = [(phase % seconds, number, 0) for number, phase in enumerate(self._phases)]
        heapq.heapify(self._due)
        self.began = time.perf_counter()

    def turn(self) -> bool:
        """Tells the engine what is due, and steps it once.  False when all is over."""
        now = time.perf_counter() - self.began
        while self._due and self._due[0][0] <= now:
            at, number, packet = heapq.heappop(self._due)
            self._packet(at, number, packet)
            if at + PACKET_S < self._seconds:
                heapq.heappush(self._due, (at + PACKET_S, number, packet + 1))
        self.note(self.engine.step(int(now * 1e6)))
        return bool(self._due) or self.engine.deadline_us is not None

    def _packet(self, at: float, number: int, packet: int) -> None:
        habit, start = self._habit, packet * PACKET
        cycle, index = divmod(packet, habit.every)
        voice = 1.0 if index < habit.speaks else 0.0
        first, last = start // VAD_FRAME, (start + PACKET) // VAD_FRAME
        tell(self.engine, Feed(number, start, self._pcm))
        tell(self.engine, Heard(number, first * VAD_FRAME, (voice,) * (last - first)))
        spoken, answered = 2 * cycle + 1, 2 * cycle + 2
        end = (cycle * habit.every + habit.speaks) * PACKET
        before = self._contexts[number]
        if index == TOLD:
            tell(self.engine, Onset(number, spoken, cycle * habit.every * PACKET))
            tell(self.engine, Prepare(number, spoken, tuple(before)))
        elif index == habit.speaks + TENTATIVE and self._ahead:
            context = (*before, Turn("user", ref=spoken))
            tell(self.engine, Speculate(number, answered, spoken, end, context, habit.answer))
        elif index == habit.speaks + OVER:
            before.append(Turn("user", ref=spoken))
            self.answers[number, answered] = TimedAnswer(self.began + at)
            tell(self.engine, Commit(number, spoken, end))
            tell(self.engine, Respond(number, answered, tuple(before), habit.answer))

    def note(self, outputs: Iterable[Output]) -> None:
        """Notes the outputs of one step."""
        now = time.perf_counter()
        for output in outputs:
            if isinstance(output, Said):
                answer = self.answers[output.stream, output.ref]
                answer.said.append(now)
                answer.tokens += output.tokens
            elif isinstance(output, Settled):
                self.answers[output.stream, output.ref].settled = True
                self._contexts[output.stream].append(Turn("assistant", output.text, output.ref))

    def leave(self) -> None:
        for number in range(len(self._contexts)):
            self.engine.receive(Close(number))

    def found(self) -> dict[str, object]:
        """The figures of all answers."""
        spoken = [answer for answer in self.answers.values() if answer.said]
        gaps = [1000 * (later - sooner) for answer in spoken for sooner, later in pairwise(answer.said)]
        return {
            "conversations": len(self._contexts),
            "seconds": self._seconds,
            "ahead": self._ahead,
            "answers": len(self.answers),
            "settled": sum(answer.settled for answer in self.answers.values()),
            "tokens": sum(answer.tokens for answer in spoken),
            "first_token_ms": percentiles(1000 * (answer.said[0] - answer.due) for answer in spoken),
            "gap_ms": percentiles(gaps),
            "whole_ms": percentiles(1000 * (answer.said[-1] - answer.due) for answer in spoken),
        }


def many(device: MiniDevice, count: int, seconds: float, habit: Habit, *, ahead: bool) -> dict[str, object]:
    talks = Conversations(engine_of(device), count, seconds, habit, ahead=ahead)
    while talks.turn():
        pass
    talks.leave()
    return talks.found()


# ── beside live streams ─────────────────────────────────────────────────────────────────────────────────────────────


def beside(
    device: MiniDevice, live: RealtimeDevice, options: RealtimeOptions, count: int, seconds: float, habit: Habit
) -> dict[str, object]:
    """Runs `count` live streams, their histories spread up to the longest, and as many conversations in one loop."""
    talks = Conversations(engine_of(device), count, seconds, habit, ahead=True)
    crowd = Crowd(live, options, count, seconds, together=False)
    _go_on(crowd.turn, talks.turn)
    crowd.leave()
    talks.leave()
    return {"live_frame_ms": _live(crowd, lambda read: True), **talks.found()}


def beside_prefill(
    device: MiniDevice, live: RealtimeDevice, options: RealtimeOptions, count: int, seconds: float
) -> dict[str, object]:
    """Live streams, and every second somebody asks about 30 s of audio: how late do frames become in the 300 ms after
    that, and at other times?"""
    engine, pcm, asked = engine_of(device), noise(30 * RATE), list[float]()
    crowd = Crowd(live, options, count, seconds, together=False)

    def ask() -> bool:
        now = time.perf_counter() - crowd.began
        if len(asked) + 1 <= now / PREFILL_EVERY_S and now < seconds - PREFILL_SEEN_S:
            stream = len(asked)
            asked.append(time.perf_counter())
            tell(engine, Open(stream, ("respond",)), Audio(stream, 1, pcm))
            tell(engine, Respond(stream, 2, (Turn("user", ref=1),), 1))
        for output in engine.step(int(now * 1e6)):
            if isinstance(output, Settled):
                tell(engine, Close(output.stream))
        return engine.deadline_us is not None

    _go_on(crowd.turn, ask)
    crowd.leave()

    def during(read: float) -> bool:
        return any(at <= read < at + PREFILL_SEEN_S for at in asked)

    quiet = _live(crowd, lambda read: not during(read))
    longest = [
        max((ms for _, read, ms in frame_times(crowd) if at <= read < at + PREFILL_SEEN_S), default=0.0) for at in asked
    ]
    delay = round(max(longest, default=0.0) - quiet["p50"], 2)
    figures = {"otherwise_ms": quiet, "during_ms": _live(crowd, during), "worst_ms": longest}
    return {"prefills": len(asked), "longest_delay_ms": delay, **figures}


def _go_on(*turns: Callable[[], bool]) -> None:
    """Calls them in turn until all are over."""
    while sum(turn() for turn in turns):
        pass


def _live(crowd: Crowd, counts: Callable[[float], bool]) -> dict[str, float]:
    """Milliseconds from a frame complete to its token read; the first half second warms up."""
    return percentiles(ms for at, read, ms in frame_times(crowd) if at > RATE // 2 and counts(read))
