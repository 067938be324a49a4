"""The event loop of the gateway: of all that is ready, whoever has cost least comes first.  Not in the path.

asyncio runs what is ready in the order in which it came, so a client with a little to do waits for all that others
have to do.  Here each callback belongs to a Line: all callbacks of one client, which stay in their order.  Between two
looks at the sockets the lines are served for SLICE_S, one callback at a time, and each time the line comes first whose
Share has cost least.  A client that costs little so waits for the callback that is running, and for nobody's queue.

Nobody has to say to whom a callback belongs: asyncio hands the context of a connection on to its protocol, tasks,
timers and futures, and the line is a variable of that context.  What has no line belongs to the daemon and runs at
once.  On another event loop all of this has no effect.

It knows callbacks and clocks; not what they do, nor for whom.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

Clock = Callable[[], float]

SLICE_S = 0.004  # of work between two looks at the sockets
EVEN = 0.05  # of one CPU: so much of what somebody has cost is forgotten with time
MOST_S = 0.05  # of work are remembered: a second later it is as if nothing had been
NEW_S = 0.01  # of work a new client counts as having cost: else each new connection were free


class Share:
    """What somebody has cost, as the time at which it will be forgotten (s of the monotonic clock)."""

    __slots__ = ("__weakref__", "even_at")

    def __init__(self, even_at: float) -> None:
        self.even_at = even_at

    def charge(self, now: float, work: float) -> None:
        """`work`: seconds."""
        self.even_at = min(max(self.even_at, now) + work / EVEN, now + MOST_S / EVEN)


class Line:
    """Callbacks that run one after the other, by the time that `share` has had.  Several lines may have one share."""

    __slots__ = ("share", "waiting")

    def __init__(self, share: Share) -> None:
        self.share = share
        self.waiting = OrderedDict[int, Any]()  # by id: a socket that stays readable is told of again and again


class Lines:
    """All lines in which something waits.  Pure: `work` is a clock that stands still while others are at work."""

    def __init__(self, work: Clock = time.thread_time, clock: Clock = time.monotonic) -> None:
        self._work, self._clock = work, clock
        self._heap: list[tuple[float, int, Line]] = []
        self._numbers = itertools.count()

    def __bool__(self) -> bool:
        return bool(self._heap)

    def put(self, line: Line, callback: Any) -> None:  # an asyncio.Handle
        if not line.waiting:
            self._enter(line)
        line.waiting[id(callback)] = callback

    def serve(self) -> None:
        """For SLICE_S, or a callback longer."""
        begun = before = self._work()
        while self._heap and before - begun < SLICE_S:
            cost, _, line = heapq.heappop(self._heap)
            share = line.share
            if share.even_at > cost:  # it has cost more since it came
                self._enter(line)
                continue
            _, callback = line.waiting.popitem(last=False)
            if line.waiting:
                self._enter(line)  # what is added meanwhile finds it there, or enters it itself
            try:
                if not callback.cancelled():
                    callback._run()
            finally:
                now = self._work()
                share.charge(self._clock(), now - before)
                before = now

    def clear(self) -> None:
        for *_, line in self._heap:
            line.waiting.clear()
        self._heap.clear()

    def _enter(self, line: Line) -> None:
        heapq.heappush(self._heap, (line.share.even_at, next(self._numbers), line))


_line: contextvars.ContextVar[Line | None] = contextvars.ContextVar("line", default=None)


def newcomer() -> Share:
    """The share of somebody new."""
    return Share(time.monotonic() + NEW_S / EVEN)


def in_line(share: Share) -> contextvars.Context:
    """A context like this one, whose callbacks have a line of their own."""
    context = contextvars.copy_context()
    context.run(_line.set, Line(share))
    return context


def count_for(share: Share) -> None:
    """From now on this line counts for another share."""
    if (line := _line.get()) is not None:
        line.share = share


class _Ready(deque[Any]):
    """asyncio's queue of what is ready.  Callbacks with a line go there; one callback of the daemon's serves them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, lines: Lines) -> None:
        super().__init__()
        self._lines, self._serving = lines, False
        self._thread = threading.get_ident()
        self._serve = asyncio.Handle(self._serve_lines, (), loop, contextvars.Context())

    def append(self, handle: Any) -> None:
        line = handle._context.get(_line)
        if line is None or threading.get_ident() != self._thread:  # that of a deque is atomic
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
    """asyncio's, with another queue of what is ready (`tests/voxd/system/test_fair_loop.py` says what it relies on)."""

    def __init__(self) -> None:
        super().__init__()
        self._ready = _Ready(self, Lines())
