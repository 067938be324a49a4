"""Tells whether the device is behind, by which an engine decides whether to admit another stream.  Beside step 8.

Pure: times in microseconds go in.  It knows waits, not streams.  Memory is the other half of admission: slots.
"""

from __future__ import annotations

from collections import deque

LATE_US = 160_000  # two frames: what a frame may wait for its turn
SHARE = 0.05  # of the frames of the last second: their p95 is late
WINDOW_US = 1_000_000


class Load:
    """How long frames waited for their turn lately."""

    def __init__(self) -> None:
        self._waits: deque[tuple[int, bool]] = deque()  # when, and whether it was late
        self._late = 0
        self._since_us: int | None = None  # more than SHARE of the frames have been late since

    def note(self, now_us: int, wait_us: int) -> None:
        """A frame got its turn."""
        late = wait_us > LATE_US
        self._waits.append((now_us, late))
        self._late += late
        self._forget(now_us)
        if self._late <= SHARE * len(self._waits):
            self._since_us = None
        elif self._since_us is None:
            self._since_us = now_us

    def behind(self, now_us: int) -> bool:
        """Whether the p95 of the waits has been over two frames for a whole second."""
        self._forget(now_us)
        return bool(self._waits) and self._since_us is not None and now_us - self._since_us >= WINDOW_US

    def _forget(self, now_us: int) -> None:
        while self._waits and self._waits[0][0] < now_us - WINDOW_US:
            self._late -= self._waits.popleft()[1]
        if not self._waits:
            self._since_us = None
