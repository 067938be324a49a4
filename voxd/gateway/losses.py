"""Decides what follows when an engine process has ended: whose input may be the cause, when the next process starts,
and whether to give up.  Beside steps 5 and 9, a part of the engine host.

Pure.  It knows streams by number, and time in seconds; not processes, messages or sessions.

    idle      no stream's input was being worked on, so the process itself is at fault.  If that happens too often
              within a window, the daemon ends
    at work   input of some streams was being worked on.  No client may end the daemon, so this is never a reason to
              give up.  These streams are suspects.  From the second loss on they return one by one, TRIAL heartbeats
              apart, so that the stream that ends the process is found; it is shut out at the third loss
    no start  a process cannot start although one could before: tried again for ever, less and less often

A process that ends often is started later each time, after BACKOFF_S at most.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import NamedTuple

SUSPECTED = 2  # losses after which a stream returns alone
SHUT_OUT = 3  # losses after which a stream that alone was at work does not return
TRIAL = 3  # heartbeats for which a stream that returned is the only suspect: enough to repeat what it was doing
CLEARED_S = 60.0  # without a loss, after which no stream is suspected
AT_ONCE = 2  # restarts without a wait
BACKOFF_S = 60.0  # between two starts, at most


class NextStart(NamedTuple):
    """`wait_s`: seconds until the next start; None: give up.  `culprit`: the stream to shut out."""

    wait_s: float | None
    culprit: int | None = None


class Losses:
    """Remembers losses.  More than `allowed` idle ones within `window_s` are a reason to give up."""

    def __init__(self, allowed: int, window_s: float) -> None:
        self._allowed, self._window_s = allowed, window_s
        self.idle = 0  # idle losses within the window
        self._idle_at: deque[float] = deque(maxlen=allowed + 1)
        self._lost_at = float("-inf")
        self._in_a_row = 0  # losses, each within CLEARED_S of the one before
        self._failed_starts = 0
        self._losses: dict[int, int] = {}  # by suspected stream
        self._returning: deque[int] = deque()  # suspects that have not returned yet
        self._on_trial: int | None = None  # the suspect that returned last
        self._trial = 0  # heartbeats until the next suspect may return
        self._fresh: set[int] = set()  # streams with input since the last heartbeat
        self._recent: set[int] = set()  # streams with input between the two heartbeats before it

    # ── while a process works ───────────────────────────────────────────────────────────────────────────────────────

    def sent(self, stream: int) -> None:
        """The process was given input of this stream."""
        self._fresh.add(stream)

    def beat(self) -> int | None:
        """The process has sent a heartbeat.  Returns the stream that may return now."""
        self._recent, self._fresh = self._fresh, set()
        self._trial -= 1
        if self._trial > 0:
            return None
        self._on_trial = self._returning.popleft() if self._returning else None
        self._trial = TRIAL
        return self._on_trial

    def done(self, stream: int) -> None:
        """A turn of this stream was finished, so its input does no harm."""
        self._losses.pop(stream, None)

    def gone(self, stream: int) -> None:
        for known in (self._fresh, self._recent):
            known.discard(stream)
        self._losses.pop(stream, None)
        if stream in self._returning:
            self._returning.remove(stream)

    def started(self, streams: Collection[int]) -> list[int]:
        """A process is ready.  Returns the streams that return at once; suspects follow with the heartbeats."""
        self._failed_starts = 0
        suspects = [stream for stream in streams if self._losses.get(stream, 0) >= SUSPECTED]
        self._returning, self._trial = deque(sorted(suspects, key=self._losses.__getitem__)), 0
        return [stream for stream in streams if stream not in suspects]

    # ── when a process has ended ────────────────────────────────────────────────────────────────────────────────────

    def lost(self, now: float, busy: Collection[int]) -> NextStart:
        """A process that was ready has ended.  `busy`: the streams with a turn in flight."""
        self._in_a_row = self._in_a_row + 1 if now - self._lost_at < CLEARED_S else 1
        if self._in_a_row == 1:
            self._losses.clear()
        self._lost_at = now
        at_work = self._at_work(busy)
        for stream in at_work:
            self._losses[stream] = self._losses.get(stream, 0) + 1
        if not at_work:
            self._idle_at.append(now)
            self.idle = sum(now - at < self._window_s for at in self._idle_at)
            return NextStart(None if self.idle > self._allowed else self._wait_s(self._in_a_row - AT_ONCE))
        culprit = next(iter(at_work)) if len(at_work) == 1 else None
        if culprit is not None and self._losses[culprit] < SHUT_OUT:
            culprit = None
        return NextStart(self._wait_s(self._in_a_row - AT_ONCE), culprit)

    def _at_work(self, busy: Collection[int]) -> set[int]:
        found = {self._on_trial} if self._on_trial is not None else {*self._fresh, *self._recent, *busy}
        self._fresh, self._recent, self._on_trial = set(), set(), None
        self._returning.clear()
        return found

    def not_started(self) -> float:
        """A process could not start although one had been ready.  Returns the seconds until the next try."""
        self._failed_starts += 1
        return self._wait_s(self._failed_starts)

    @staticmethod
    def _wait_s(count: int) -> float:
        """1, 2, 4 and so on, BACKOFF_S at most."""
        return min(BACKOFF_S, 2.0 ** (count - 1)) if count > 0 else 0.0
