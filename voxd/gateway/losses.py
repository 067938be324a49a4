"""What is to be done when an engine process has ended: whose input may have done it, when the next one is started, and
whether it is of any use.  A part of the engine host.

Pure.  It knows streams by number and time in seconds; not processes, messages or sessions.

    idle      nobody's input was at work: the process itself is at fault; too often within a window, and the daemon ends
    at work   somebody's input was: no client can end the daemon, so this is never a reason to give up.  Those that were
              at work are suspects; from the second time on they come back one after the other, TRIAL heartbeats apart,
              so that the one whose return ends the process is known by it, and shut out at the third time
    no start  the process cannot even start, though it could before: tried for ever, with a back-off

A process that has ended often is started later each time, BACKOFF_S at most.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import NamedTuple

SUSPECTED = 2  # losses from which on a stream comes back alone
SHUT_OUT = 3  # losses after which one that was alone at work does not come back
TRIAL = 3  # heartbeats for which one that came back is alone suspected: what it was at is done once more by then
CLEARED_S = 60.0  # without a loss: all suspicion is over
AT_ONCE = 2  # restarts without a wait
BACKOFF_S = 60.0  # between two starts, at most


class Verdict(NamedTuple):
    """`wait_s` until the next start; None: it is of no use.  `culprit`: the stream that is to be shut out."""

    wait_s: float | None
    culprit: int | None = None


class Losses:
    """`allowed` idle losses within `window_s` are borne."""

    def __init__(self, allowed: int, window_s: float) -> None:
        self._allowed, self._window_s = allowed, window_s
        self.idle = 0  # idle losses within the window
        self._idle_at: deque[float] = deque(maxlen=allowed + 1)
        self._lost_at = float("-inf")
        self._in_a_row = 0  # losses, each within CLEARED_S of the one before
        self._failed_starts = 0
        self._losses: dict[int, int] = {}  # by suspect
        self._returning: deque[int] = deque()  # suspects that are not back yet
        self._on_trial: int | None = None  # the one that came back last
        self._trial = 0  # heartbeats until the next one may
        self._fresh: set[int] = set()  # given something since the last heartbeat
        self._recent: set[int] = set()  # and between the two before

    # ── while a process works ───────────────────────────────────────────────────────────────────────────────────────

    def sent(self, stream: int) -> None:
        """Something was given to the process for this stream."""
        self._fresh.add(stream)

    def beat(self) -> int | None:
        """A heartbeat; the stream that may come back now."""
        self._recent, self._fresh = self._fresh, set()
        self._trial -= 1
        if self._trial > 0:
            return None
        self._on_trial = self._returning.popleft() if self._returning else None
        self._trial = TRIAL
        return self._on_trial

    def done(self, stream: int) -> None:
        """A turn of it was finished: whatever it was, its input can be worked upon."""
        self._losses.pop(stream, None)

    def gone(self, stream: int) -> None:
        for known in (self._fresh, self._recent):
            known.discard(stream)
        self._losses.pop(stream, None)
        if stream in self._returning:
            self._returning.remove(stream)

    def started(self, streams: Collection[int]) -> list[int]:
        """A process is warm; those that come back at once.  The others follow with the heartbeats."""
        self._failed_starts = 0
        suspects = [stream for stream in streams if self._losses.get(stream, 0) >= SUSPECTED]
        self._returning, self._trial = deque(sorted(suspects, key=self._losses.__getitem__)), 0
        return [stream for stream in streams if stream not in suspects]

    # ── when one has ended ──────────────────────────────────────────────────────────────────────────────────────────

    def lost(self, now: float, busy: Collection[int]) -> Verdict:
        """A warm process is gone.  `busy`: streams with a turn in flight."""
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
            return Verdict(None if self.idle > self._allowed else self._wait_s(self._in_a_row - AT_ONCE))
        culprit = next(iter(at_work)) if len(at_work) == 1 else None
        if culprit is not None and self._losses[culprit] < SHUT_OUT:
            culprit = None
        return Verdict(self._wait_s(self._in_a_row - AT_ONCE), culprit)

    def _at_work(self, busy: Collection[int]) -> set[int]:
        found = {self._on_trial} if self._on_trial is not None else {*self._fresh, *self._recent, *busy}
        self._fresh, self._recent, self._on_trial = set(), set(), None
        self._returning.clear()
        return found

    def not_started(self) -> float:
        """A process could not start although one had been warm: the seconds until the next try."""
        self._failed_starts += 1
        return self._wait_s(self._failed_starts)

    @staticmethod
    def _wait_s(count: int) -> float:
        """1, 2, 4 and so on."""
        return min(BACKOFF_S, 2.0 ** (count - 1)) if count > 0 else 0.0
