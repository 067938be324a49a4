"""Chooses the next decode, for an engine whose decodes run on worker threads.  Step 7.

Pure: no thread, no clock, no device; requests are named by stream and ref, their payload is never looked at.

    one in flight per worker; a final goes first, then a flush, a partial, a file, each oldest first;
    the newest request of a stream replaces its queued one, but nothing replaces a final or a file's;
    a partial never runs beside another decode of its stream, and partials leave one worker to finals.

Bound: the finals that were asked for, one more request per stream, and what `files` submits at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Kind(IntEnum):
    """Why a decode is wanted; the smaller goes first."""

    FINAL = 0  # somebody waits for it
    FLUSH = 1  # somebody will probably wait for it in a moment
    PARTIAL = 2  # text while the person speaks: late is bad, absent is not
    FILE = 3  # nobody reads along


@dataclass(slots=True, eq=False)
class Decode(Generic[T]):
    """One decode; equal only to itself.  Nothing of it changes but the kind, by `promote`."""

    stream: int
    ref: int
    kind: Kind
    payload: T


class Scheduler(Generic[T]):
    """The queue and what was taken from it.  `workers`: decodes that run at the same time."""

    def __init__(self, workers: int) -> None:
        self._partials = max(1, workers - 1)
        self._queue: list[Decode[T]] = []  # in order of arrival
        self._running: list[Decode[T]] = []

    def put(self, request: Decode[T]) -> None:
        self._queue = [other for other in self._queue if not _replaces(request, other)]
        self._queue.append(request)

    def take(self) -> Decode[T] | None:
        """The request that a free worker is to run now; None: nothing that may run."""
        ready = [request for request in self._queue if self._may_run(request)]
        if not ready:
            return None
        request = min(ready, key=lambda found: found.kind)  # the first of equals: the oldest
        self._queue.remove(request)
        self._running.append(request)
        return request

    @staticmethod
    def promote(request: Decode[T]) -> None:
        """A flush has become a final; if it runs already, nothing is to be done."""
        request.kind = Kind.FINAL

    def done(self, request: Decode[T]) -> None:
        """The worker has finished what it took."""
        self._running.remove(request)

    def withdraw(self, stream: int, ref: int | None = None) -> None:
        """Forgets what is queued of a stream, or of one ref of it; what runs goes on."""
        self._queue = [r for r in self._queue if r.stream != stream or ref not in (None, r.ref)]

    def _may_run(self, request: Decode[T]) -> bool:
        if request.kind is not Kind.PARTIAL:
            return True
        partials = sum(running.kind is Kind.PARTIAL for running in self._running)
        return partials < self._partials and all(running.stream != request.stream for running in self._running)


def _replaces(new: Decode[T], old: Decode[T]) -> bool:
    if old.stream != new.stream or Kind.FILE in (old.kind, new.kind):
        return False
    return old.kind is not Kind.FINAL or (new.kind is Kind.FINAL and old.ref == new.ref)
