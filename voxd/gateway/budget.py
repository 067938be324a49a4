"""What all clients share: bytes that are kept for them, and the loop's time for their large messages.  Beside step 4.

It knows sums and turns; not who holds what, nor what a message is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

AUDIO = 2 << 30  # bytes, of all sessions
CONVERSATIONS = 1 << 30  # bytes, of all sessions
END = object()
BODIES = 256 << 20  # bytes, of all HTTP requests
HEAVY_S = 0.002  # a message that took longer is followed by one that waits for its turn


@dataclass(slots=True)
class Kept:
    """Bytes of one kind.  Bound: `limit`; who goes over it is told, and nobody else."""

    limit: int
    now: int = 0

    def grew(self, size: int) -> bool:
        """By so much, or less than nothing.  False: it is more than may be."""
        self.now += size
        return size <= 0 or self.now <= self.limit


class Held:
    """What one holder has of it, until the end."""

    def __init__(self, kept: Kept) -> None:
        self._kept, self._size = kept, 0

    def grew(self, size: int) -> bool:
        """As `Kept.grew`."""
        self._size += size
        return self._kept.grew(size)

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.grew(-self._size)


class Lane:
    """Large messages take turns, whosever they are: one piece of one of them in a round of the loop.

    So what a client sends costs the others one piece, however many send at the same time."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        async with self._lock:
            yield
            await asyncio.sleep(0)  # what others have to do comes before the next piece


class Pace:
    """Of one client: a message waits for a turn if it is large, or if the one before it took long."""

    def __init__(self, lane: Lane) -> None:
        self._lane, self._heavy = lane, False

    async def work(self, pieces: Iterator[None], *, large: bool) -> None:
        """To its end.  Each step of `pieces` is done in one go."""
        waits, more = large or self._heavy, True
        while more:
            if waits:
                async with self._lane.turn():
                    more = self._step(pieces)
            else:
                more = self._step(pieces)
            waits = True

    def _step(self, pieces: Iterator[None]) -> bool:
        """Is there more?"""
        before = time.thread_time()
        more = next(pieces, END) is not END
        self._heavy = time.thread_time() - before > HEAVY_S
        return more


@dataclass(slots=True)
class Budget:
    """One for a gateway."""

    audio: Kept = field(default_factory=lambda: Kept(AUDIO))
    conversations: Kept = field(default_factory=lambda: Kept(CONVERSATIONS))
    lane: Lane = field(default_factory=Lane)
