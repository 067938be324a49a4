"""Shares the event loop between clients: a client that costs little is served at once, costly ones take turns.  Beside
steps 3 and 4.

One loop serves all clients, so work for one of them holds up all others.  A client that speaks costs about 2% of its
time.  A client that costs more than LIGHT is no longer served at once, but in turn with the other costly ones, the
cheapest first: a SLICE of their work, piece by piece, then the loop is free of it for the same time.  So all costly
clients together get half of the loop, and a cheap one waits for a single piece of their work at most.

It knows loops and clocks; not what the work is, nor whose.
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

LIGHT = 0.05  # of one CPU: the rate at which a client's cost is forgotten
BURST_S = 0.005  # of work that a client may cause before it counts as costly
MOST_S = 0.05  # of work are remembered at most, so all is forgotten after a second
SLICE_S = 0.005  # of costly work between two rests


@dataclass(slots=True)
class Share:
    """What one client costs.  `debt`: the seconds of work that are not forgotten at the time `at`."""

    debt: float
    at: float


class Shares:
    """The shares of one event loop.  `work`: a clock in seconds that runs only while this thread works."""

    def __init__(self, work: Clock = time.thread_time, clock: Clock = time.monotonic) -> None:
        self._work, self._clock = work, clock
        self._waiting: list[tuple[float, int, Callable[[], object]]] = []  # a heap: who has cost least comes first
        self._numbers = itertools.count()
        self._spent = 0.0  # s of costly work since the last rest
        self._taking_turns = False

    def newcomer(self) -> Share:
        """The share of a new client.  It counts as costly at first, or every new connection would be free."""
        return Share(2 * BURST_S, self._clock())

    async def run(self, share: Share, work: Callable[[], T]) -> T:
        """Does the work when it is its turn; returns its result, or raises its exception."""
        if not self._is_costly(share):
            return self._charged(share, work)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue(share, partial(_give, turn))
        await turn
        return self._costly(share, work)

    def soon(self, share: Share, work: Callable[[], None]) -> bool:
        """Does the work now and returns True, or does it when it is its turn and returns False."""
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
        """Does one piece of costly work; the next piece follows after everything that has come meanwhile."""
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
    if not turn.done():  # its client may have gone
        turn.set_result(None)
