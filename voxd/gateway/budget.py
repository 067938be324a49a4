"""The memory that all clients together may take.  Beside step 4.

Pure: sums only.  It does not know what the bytes are, or whose.
"""

from __future__ import annotations

from dataclasses import dataclass, field

AUDIO = 2 << 30  # bytes, of all sessions
CONVERSATIONS = 1 << 30  # bytes, of all sessions
BODIES = 256 << 20  # bytes, of all HTTP requests
OUTGOING = 512 << 20  # bytes of events, of all sessions: those that wait for a client, and those kept for its return
MESSAGES = 512 << 20  # bytes, of all WebSocket messages that are not whole yet or wait for their session


@dataclass(slots=True)
class Kept:
    """Bytes of one kind.  Bound: `limit`; only the holder that goes over it is told so."""

    limit: int
    now: int = 0

    def grew(self, size: int) -> bool:
        """Adds bytes, or gives some back if negative.  False: after adding them there are more than the limit."""
        self.now += size
        return size <= 0 or self.now <= self.limit


class Held:
    """The part of one holder, given back at the end of the `with` block."""

    def __init__(self, kept: Kept) -> None:
        self._kept, self._size = kept, 0

    def grew(self, size: int) -> bool:
        """Adds to this part, as `Kept.grew` does."""
        self._size += size
        return self._kept.grew(size)

    @property
    def size(self) -> int:
        return self._size

    def becomes(self, size: int) -> bool:
        """This part has so many bytes now.  False: it has grown, and all together are more than the limit."""
        return self.grew(size - self._size)

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.grew(-self._size)


@dataclass(slots=True)
class Budget:
    """What all sessions of a gateway may keep; they share one instance."""

    audio: Kept = field(default_factory=lambda: Kept(AUDIO))
    conversations: Kept = field(default_factory=lambda: Kept(CONVERSATIONS))
    outgoing: Kept = field(default_factory=lambda: Kept(OUTGOING))
