"""The event loop of the gateway, which serves the client first that has used the least time.  Not in the path.

asyncio runs callbacks in the order in which they became ready, so a client with little to do waits for all that others
have to do.  Here each callback belongs to a Line, which holds the callbacks of one connection in their order; the lines
of one client have one Share, which counts the time that they have used.  Between two looks at the sockets the lines are
served for SLICE_S, one callback at a time, always from the Share that has used the least.  Strangers (peers that were
not let in yet), whose number is not bounded, get the time that the others leave, and at least one callback in each
slice.  So a client that uses little time waits for the callback that is running, not for anybody's queue.

Nobody has to say to whom a callback belongs: asyncio hands the context of a connection on to its protocol, tasks,
timers and futures, and the line is a variable of that context.  A callback without a line belongs to the daemon and
runs at once.  On another event loop all of this has no effect.

It knows callbacks and clocks; not what they do, nor for whom.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import heapq
import itertools
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from typing import Any

Clock = Callable[[], float]

SLICE_S = 0.004  # seconds of work between two looks at the sockets
# A debt shrinks by so many seconds in each second: quickly while a share has nothing waiting, slowly while it has,
# because a client that wants little is told from one that wants much by whether it ever rests.
IDLE = 0.25
WAITING = 0.01
MOST_S = 0.25  # seconds of work that are remembered at most
NEW_S = 0.1  # seconds of work that a new client begins with, so that new connections are not free


class Work:
    """A clock of what this thread does, in seconds.  It stands still while garbage is collected: the garbage is that of
    all, and whoever happens to be at work would pay for it."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._collecting = self._begun = 0.0

    def __call__(self) -> float:
        return time.thread_time() - self._collecting

    def collecting(self, phase: str, _: dict[str, int]) -> None:
        """For gc.callbacks.  What other threads collect is not in the time of this one."""
        if threading.get_ident() != self._thread:
            return
        if phase == "start":
            self._begun = time.thread_time()
        else:
            self._collecting += time.thread_time() - self._begun


class Share:
    """The time that one client has used and that is not forgotten: `debt` seconds of work at the time `at` (s).

    `lines`: its lines in which something waits, which take turns; `queued`: the share waits among the others."""

    __slots__ = ("__weakref__", "_at", "_debt", "cost", "lines", "queued", "stranger")

    def __init__(self, debt: float, at: float, *, stranger: bool = False) -> None:
        self._debt, self._at, self.stranger = debt, at, stranger
        self.cost = 0.0  # s of work in all
        self.lines = deque[Line]()
        self.queued = False

    def debt(self, now: float) -> float:
        forgotten = (now - self._at) * (WAITING if self.queued else IDLE)
        self._debt, self._at = max(0.0, self._debt - forgotten), now
        return self._debt

    def charge(self, now: float, work: float) -> None:
        """Adds seconds of `work`."""
        self._debt = min(MOST_S, self.debt(now) + work)
        self.cost += work


class Line:
    """Callbacks that run one after the other, and count towards `share`."""

    __slots__ = ("queued", "share", "waiting")

    def __init__(self, share: Share) -> None:
        self.share = share
        self.queued = False
        self.waiting = OrderedDict[int, Any]()  # by id, since a socket that stays readable is reported again and again


Heap = list[tuple[float, int, Share]]  # by rank


class Lines:
    """All shares in whose lines something waits.  Pure: `work` is a clock that stands still while others are at
    work."""

    def __init__(self, work: Clock = time.thread_time, clock: Clock = time.monotonic) -> None:
        self._work, self._clock = work, clock
        self._known: Heap = []
        self._strangers: Heap = []
        self._numbers = itertools.count()

    def __bool__(self) -> bool:
        return bool(self._known or self._strangers)

    def put(self, line: Line, callback: Any) -> None:  # an asyncio.Handle
        line.waiting[id(callback)] = callback
        if not line.queued:
            self._enter(line)

    def serve(self) -> None:
        """Runs callbacks for SLICE_S, and then one callback of a stranger if none had its turn."""
        begun = now = self._work()
        served = False
        while now - begun < SLICE_S and (heap := self._known or self._strangers):
            served = served or heap is self._strangers
            now = self._serve_one(heap, now)
        if self._strangers and not served:
            self._serve_one(self._strangers, now)

    def _serve_one(self, heap: Heap, begun: float) -> float:
        """Runs one callback.  `begun` and the returned end are times of the clock of work."""
        *_, share = heapq.heappop(heap)
        line = share.lines.popleft()
        _, callback = line.waiting.popitem(last=False)
        try:
            if not callback.cancelled():
                callback._run()
        finally:
            ended = self._work()
            share.charge(self._clock(), ended - begun)
            share.queued = line.queued = False
            if share.lines:
                self._queue(share)
            if line.waiting:
                self._enter(line)
        return ended

    def clear(self) -> None:
        for *_, share in (*self._known, *self._strangers):
            for line in share.lines:
                line.waiting.clear()
                line.queued = False
            share.lines.clear()
            share.queued = False
        self._known.clear()
        self._strangers.clear()

    def _enter(self, line: Line) -> None:
        line.queued = True
        line.share.lines.append(line)
        if not line.share.queued:
            self._queue(line.share)

    def _queue(self, share: Share) -> None:
        """Queues a share by rank, lowest first.  Debts of waiting shares shrink alike, so the order stays right
        meanwhile."""
        now = self._clock()
        rank = share.debt(now) + WAITING * now
        share.queued = True
        heapq.heappush(self._strangers if share.stranger else self._known, (rank, next(self._numbers), share))


_line: contextvars.ContextVar[Line | None] = contextvars.ContextVar("line", default=None)


def newcomer() -> Share:
    """The share of a new client, which has been let in."""
    return Share(NEW_S, time.monotonic())


def stranger() -> Share:
    """The share of a peer that has not been let in yet: all others come first, but for one callback in each slice."""
    return Share(NEW_S, time.monotonic(), stranger=True)


def in_line(share: Share) -> contextvars.Context:
    """A context like this one, whose callbacks have a line of their own."""
    context = contextvars.copy_context()
    context.run(_line.set, Line(share))
    return context


def count_for(share: Share) -> None:
    """Lets the present line count towards another share from now on."""
    if (line := _line.get()) is not None:
        line.share = share


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine like asyncio.run, on a FairLoop."""
    with asyncio.Runner(loop_factory=FairLoop) as runner:
        runner.run(main)


class _Ready(deque[Any]):
    """asyncio's queue of what is ready.  Callbacks with a line go there; one callback of the daemon's serves them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, lines: Lines) -> None:
        super().__init__()
        self._lines, self._serving = lines, False
        self._thread = threading.get_ident()
        self._serve = asyncio.Handle(self._serve_lines, (), loop, contextvars.Context())

    def append(self, handle: Any) -> None:
        line = handle._context.get(_line)
        if line is None or threading.get_ident() != self._thread:  # appending to a deque is atomic
            super().append(handle)
            return
        self._lines.put(line, handle)
        if not self._serving:
            self._serving = True
            super().append(self._serve)

    def _serve_lines(self) -> None:
        try:
            self._lines.serve()
        finally:
            self._serving = bool(self._lines)
            if self._serving:
                super().append(self._serve)

    def clear(self) -> None:
        super().clear()
        self._lines.clear()
        self._serving = False


class FairLoop(asyncio.SelectorEventLoop):
    """asyncio's event loop with another queue of ready callbacks (`tests/voxd/system/test_fair_loop.py`: what it relies
    on)."""

    def __init__(self) -> None:
        super().__init__()
        work = Work()
        self._collecting = work.collecting
        gc.callbacks.append(self._collecting)
        self._ready = _Ready(self, Lines(work))

    def close(self) -> None:
        if not self.is_closed():
            gc.callbacks.remove(self._collecting)
        super().close()
