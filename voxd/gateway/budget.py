"""How many bytes are kept for all clients together.  Beside step 4.

It knows sums; not who holds what, nor of what.
"""

from __future__ import annotations

from dataclasses import dataclass, field

AUDIO = 2 << 30  # bytes, of all sessions
CONVERSATIONS = 1 << 30  # bytes, of all sessions
BODIES = 256 << 20  # bytes, of all HTTP requests
MESSAGES = 512 << 20  # bytes, of all WebSocket messages that are not whole yet or wait for their session


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


@dataclass(slots=True)
class Budget:
    """One for a gateway."""

    audio: Kept = field(default_factory=lambda: Kept(AUDIO))
    conversations: Kept = field(default_factory=lambda: Kept(CONVERSATIONS))
