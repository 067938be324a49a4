"""Which request is answered next, and in which slot.  Step 8.

Pure; it knows no library and no thread.  A slot holds the cache of one conversation, so a conversation goes back to its
own as long as nobody else needs it; of those at rest, the one used longest ago is taken.  When all are busy, a request
that nobody waits for gives way to one that somebody waits for.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Generic, Protocol, TypeVar


class LlamaKind(IntEnum):
    """Why a request is made; the smaller goes first."""

    WANTED = 0  # somebody waits for it
    AHEAD = 1  # somebody will probably wait for it in a moment
    OPENING = 2  # the person still speaks: what is known of the next prompt


class Wish(Protocol):
    """What the schedule wants to know of a request."""

    stream: int
    kind: LlamaKind
    aside: bool  # it is not of its stream's conversation, whose slot it leaves alone


W = TypeVar("W", bound=Wish)


class SlotSchedule(Generic[W]):
    """`slots`: how many requests are answered at the same time.

    Bound of those that wait: the engine's, one per stream and a few beside it."""

    def __init__(self, slots: int) -> None:
        self._waiting: list[W] = []
        self._running: dict[int, W] = {}
        self._owners: dict[int, int | None] = dict.fromkeys(range(slots))  # the slot used longest ago first

    def __iter__(self) -> Iterator[W]:
        return iter([*self._running.values(), *self._waiting])

    def add(self, request: W) -> None:
        self._waiting.append(request)

    def remove(self, request: W) -> None:
        """It is over, or is not wanted any more."""
        self._waiting = [each for each in self._waiting if each is not request]
        self._running = {slot: each for slot, each in self._running.items() if each is not request}

    def forget(self, stream: int) -> None:
        """The stream is closed: its slot is free for others."""
        self._owners = {slot: None if owner == stream else owner for slot, owner in self._owners.items()}

    def begin(self) -> tuple[list[tuple[W, int]], list[W]]:
        """The requests that begin now, with their slots; and those that gave way, which are removed."""
        begun: list[tuple[W, int]] = []
        gone: list[W] = []
        for request in sorted(self._waiting, key=lambda each: each.kind):  # stable: the oldest of equals first
            slot = self._slot(request)
            if slot is None and request.kind is LlamaKind.WANTED:
                slot = next((at for at, each in self._running.items() if each.kind is not LlamaKind.WANTED), None)
                if slot is not None:
                    gone.append(self._running.pop(slot))
            if slot is None:
                continue
            self._waiting = [each for each in self._waiting if each is not request]
            self._running[slot] = request
            del self._owners[slot]
            self._owners[slot] = None if request.aside else request.stream
            begun.append((request, slot))
        return begun, gone

    def _slot(self, request: W) -> int | None:
        """The slot for a request; None: it has to wait."""
        if not request.aside:
            own = next((slot for slot, owner in self._owners.items() if owner == request.stream), None)
            if own is not None:
                return own if own not in self._running else None
        free = [slot for slot in self._owners if slot not in self._running]
        return next((slot for slot in free if self._owners[slot] is None), free[0] if free else None)
