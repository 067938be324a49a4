"""How far a file is, on one line of a terminal that is written anew.  Beside step 12.

The line is pure; `Ticker` redraws it.  In a pipe nothing can be taken back, and nothing is drawn.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from shared.audio import RATE
from shared.terminal import draw

TICK_S = 0.2
SETTLE_S = 2.0  # before that nobody can tell how long it will take
CLEAR = "\r\x1b[K"


def line(name: str, done: int, whole: int, elapsed_s: float, width: int) -> str:
    """`done` of `whole` samples in so many seconds; `whole` 0: nobody knows.  At most `width` columns."""
    clock = _clock(done / RATE)
    speed = done / RATE / elapsed_s if elapsed_s > 0 else 0.0
    text = f"{clock} of {_clock(whole / RATE)}" if whole else clock
    if done and elapsed_s >= SETTLE_S:
        text += f", {speed:.1f} times as fast as it was said"
        if whole:
            text = f"{min(100, 100 * done // whole):3d} %  {text}, {_clock(max(0, whole - done) / RATE / speed)} left"
    room = max(0, width - len(text) - 3)
    return f"{name[:room]}  {text}"[: max(0, width - 1)]


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


class Ticker:
    """`look()`: samples done, and of how many."""

    def __init__(self, name: str, look: Callable[[], tuple[int, int]], width: int) -> None:
        self._name, self._look, self._width = name, look, width
        self._begun_s = time.monotonic()
        self._drawn = False

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._begun_s

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Draws until the block is left; then the line is gone."""
        ticking = asyncio.create_task(self._tick()) if self._width else None
        try:
            yield
        finally:
            if ticking is not None:
                ticking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await ticking
            self.clear()

    async def _tick(self) -> None:
        while True:
            done, whole = self._look()
            draw(CLEAR + line(self._name, done, whole, self.elapsed_s, self._width), nl=False, err=True)
            sys.stderr.flush()
            self._drawn = True
            await asyncio.sleep(TICK_S)

    def clear(self) -> None:
        """Takes the line away, before something else is written."""
        if self._drawn:
            draw(CLEAR, nl=False, err=True)
            self._drawn = False
