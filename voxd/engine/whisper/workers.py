"""Threads that decode, which takes longer than the loop may wait.  Step 8.

A `Job` goes in with a function to call, a `Result` comes out; the scheduler chooses the next one.  It does not
know audio, text or models.  An exception of a job ends that job only: it is logged once, and the result says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from voxd.engine.whisper.scheduler import Decode, Scheduler

J = TypeVar("J")
R = TypeVar("R")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result(Generic[J, R]):
    """What became of a request; `value` is None if it raised."""

    request: Decode[J]
    value: R | None
    wall_us: int


class Pool(Protocol[J, R]):
    """What an engine wants of its workers; tests run the same without threads."""

    def submit(self, request: Decode[J]) -> None: ...
    def promote(self, request: Decode[J]) -> None: ...
    def withdraw(self, stream: int, ref: int | None = None) -> None: ...
    def results(self) -> list[Result[J, R]]: ...
    def stop(self) -> None: ...


class Workers(Generic[J, R]):
    """`count` daemon threads that call `work` and then `wake`.

    Bound of the queue: the scheduler's; of the results: what was taken, until the engine is stepped."""

    def __init__(self, count: int, work: Callable[[J], R], wake: Callable[[], None]) -> None:
        self._work = work
        self._wake = wake
        self._scheduler: Scheduler[J] = Scheduler(count)
        self._changed = threading.Condition()  # guards the scheduler, the results and the flag
        self._results: deque[Result[J, R]] = deque()
        self._stopping = False
        self._threads = [threading.Thread(target=self._run, name=f"decode-{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, request: Decode[J]) -> None:
        with self._changed:
            self._scheduler.put(request)
            self._changed.notify()

    def promote(self, request: Decode[J]) -> None:
        with self._changed:
            self._scheduler.promote(request)

    def withdraw(self, stream: int, ref: int | None = None) -> None:
        with self._changed:
            self._scheduler.withdraw(stream, ref)

    def results(self) -> list[Result[J, R]]:
        with self._changed:
            found = list(self._results)
            self._results.clear()
        return found

    def stop(self) -> None:
        """Waits for the decodes that run; what is queued is dropped."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _next(self) -> Decode[J] | None:
        """Blocks until there is something to do; None: the end."""
        with self._changed:
            while not self._stopping:
                request = self._scheduler.take()
                if request is not None:
                    return request
                self._changed.wait()
            return None

    def _run(self) -> None:
        while (request := self._next()) is not None:
            began = time.monotonic_ns()
            try:
                value: R | None = self._work(request.payload)
            except Exception:  # the wall: a decode that fails must not take its thread, or other streams, with it
                log.exception("a decode failed")
                value = None
            result = Result(request, value, (time.monotonic_ns() - began) // 1000)
            with self._changed:
                self._scheduler.done(request)
                self._results.append(result)
                self._changed.notify_all()  # a partial that had to wait for this stream may run now
            self._wake()
