"""Who may use the event loop: a cheap client at once, costly ones in turn.  Beside steps 3 and 4.

One loop serves everybody, so whatever is done for one client holds up all others.  Someone who speaks costs some two
hundredths of its time.  Whoever costs more than LIGHT is no longer served as things come, but in turn with all others
who do, who has cost least first: a SLICE of work, piece after piece, then the loop is free of them for as long.  So
together they get half of it, and whoever costs little waits for one piece of their work at most.

It knows loops and clocks; not what is done, nor for whom.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

T = TypeVar("T")
Clock = Callable[[], float]

LIGHT = 0.05  # of one CPU: so much of what somebody has cost is forgotten with time
BURST_S = 0.005  # of work may pass at once
MOST_S = 0.05  # of work are remembered: a second later it is as if nothing had been
SLICE_S = 0.005  # of costly work between two rests


@dataclass(slots=True)
class Share:
    """What one client costs.  `debt`: seconds of work at the time `at` that are not forgotten."""

    debt: float
    at: float


class Shares:
    """Of one event loop.  `work`: a clock that stands still while others than this thread are at work, in seconds."""

    def __init__(self, work: Clock = time.thread_time, clock: Clock = time.monotonic) -> None:
        self._work, self._clock = work, clock
        self._waiting: list[tuple[float, int, Callable[[], object]]] = []  # a heap: who has cost least comes first
        self._numbers = itertools.count()
        self._spent = 0.0  # s of costly work since the last rest
        self._taking_turns = False

    def newcomer(self) -> Share:
        """The share of somebody new, who is taken for costly at first: else each new connection were free."""
        return Share(2 * BURST_S, self._clock())

    async def run(self, share: Share, work: Callable[[], T]) -> T:
        """What the work gives, or raises, once it was its turn."""
        if not self._is_costly(share):
            return self._charged(share, work)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue(share, partial(_give, turn))
        await turn
        return self._costly(share, work)

    def soon(self, share: Share, work: Callable[[], None]) -> bool:
        """Does the work: now (True), or when it is its turn."""
        if not self._is_costly(share):
            self._charged(share, work)
            return True
        self._queue(share, partial(self._costly, share, work))
        return False

    def _is_costly(self, share: Share) -> bool:
        now = self._clock()
        share.debt = max(0.0, share.debt - (now - share.at) * LIGHT)
        share.at = now
        return share.debt > BURST_S

    def _charged(self, share: Share, work: Callable[[], T]) -> T:
        begun = self._work()
        try:
            return work()
        finally:
            share.debt = min(MOST_S, share.debt + self._work() - begun)

    def _costly(self, share: Share, work: Callable[[], T]) -> T:
        begun = self._work()
        try:
            return self._charged(share, work)
        finally:
            self._spent += self._work() - begun

    def _queue(self, share: Share, turn: Callable[[], object]) -> None:
        heapq.heappush(self._waiting, (share.debt, next(self._numbers), turn))
        if not self._taking_turns:
            self._taking_turns = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """One piece of costly work, and the next one behind all that has come meanwhile."""
        loop = asyncio.get_running_loop()
        if self._spent >= SLICE_S:
            rest, self._spent = self._spent, 0.0
            loop.call_later(rest, self._next)
        elif self._waiting:
            loop.call_soon(self._next)
            *_, turn = heapq.heappop(self._waiting)
            turn()
        else:
            self._taking_turns = False


def _give(turn: asyncio.Future[None]) -> None:
    if not turn.done():  # by its client's end
        turn.set_result(None)
