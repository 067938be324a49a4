"""Messages on their way to one client: those that wait for the transport, and those kept for a client that comes back.
Step 11 of a packet's path.

It knows sizes, numbers and the turn of the event loop; not sockets, sessions or what an event means.

Bounds: a history keeps the last HISTORY messages, HISTORY_BYTES of them at most.  An outbox has no bound of its own:
whoever fills it looks at `size`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from shared import events

OVERHEAD = 1024  # bytes of memory of an event beside its JSON, about
AT_ONCE = 16  # messages taken before others have their turn
HISTORY = 200  # messages kept for a client that comes back
HISTORY_BYTES = 4 << 20


class Closed(Exception):
    """The server closes the connection, with a WebSocket close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(slots=True)
class OutgoingMessage:
    """One message for the transport, and the event that it tells.

    `seq`: its number, in a session that can be resumed.  `again`: it is not the first message of its event, or a
    repetition, so it must not be measured."""

    event: events.ServerEvent
    data: bytes
    seq: int = 0
    again: bool = False

    @property
    def text(self) -> str:
        """The message as a transport sends it."""
        return self.data.decode()

    @property
    def cost(self) -> int:
        """Bytes of memory, about."""
        return len(self.data) + OVERHEAD


class ResumeHistory:
    """Numbers the messages of a session that can be resumed, and keeps the latest of them."""

    def __init__(self) -> None:
        self._kept: deque[OutgoingMessage] = deque()  # oldest first
        self.size = 0  # bytes
        self._seq = 0  # of the latest message

    def add(self, message: OutgoingMessage) -> None:
        """Gives the message its number, and keeps it."""
        self._seq = message.seq = self._seq + 1
        message.data = events.numbered(message.data, self._seq)
        self._kept.append(message)
        self.size += message.cost
        while len(self._kept) > HISTORY or self.size > HISTORY_BYTES:
            self.size -= self._kept.popleft().cost

    def holds_all_after(self, seq: int) -> bool:
        """Is every message after number `seq` still here?"""
        oldest = self._kept[0].seq if self._kept else self._seq + 1
        return oldest - 1 <= seq <= self._seq

    def after(self, seq: int) -> list[OutgoingMessage]:
        """The messages after number `seq`, in order."""
        return [message for message in self._kept if message.seq > seq]


class Outbox:
    """The messages that wait for the transport.  Transports may follow each other: only the latest is served."""

    def __init__(self) -> None:
        self.waiting: deque[OutgoingMessage] = deque()
        self.size = 0  # bytes that wait, about
        self.ticket = 0  # the number of the transport that is served
        self.closing: Closed | None = None  # the server ends the connection once all is written
        self._taken = 0
        self._changed = asyncio.Event()

    def put(self, message: OutgoingMessage, *, first: bool = False) -> None:
        """Adds a message, in front of all others if `first`."""
        if first:
            self.waiting.appendleft(message)
        else:
            self.waiting.append(message)
        self.size += message.cost
        self._changed.set()

    async def take(self, ticket: int) -> OutgoingMessage:
        """The next message for the transport of this ticket.

        Raises Closed once the server has ended the connection and everything is written, or when another transport has
        taken over."""
        self._taken += 1
        if self._taken % AT_ONCE == 0:
            await asyncio.sleep(0)  # a long answer must not hold up other clients
        while True:
            if ticket != self.ticket:
                raise Closed(1001, "the session goes on over another connection")
            if self.waiting:
                return self.pop()
            if self.closing:
                raise self.closing
            self._changed.clear()
            await self._changed.wait()

    def pop(self) -> OutgoingMessage:
        """The next message, which must be there."""
        message = self.waiting.popleft()
        self.size -= message.cost
        return message

    def close(self, code: int, reason: str) -> None:
        """Ends the connection after everything that waits; the first reason counts."""
        self.closing = self.closing or Closed(code, reason)
        self._changed.set()

    def drop(self, code: int, reason: str) -> None:
        """Ends the connection at once: what waits is thrown away."""
        self.waiting.clear()
        self.size = 0
        self.close(code, reason)

    def hand_over(self, missed: Iterable[OutgoingMessage]) -> None:
        """A new transport takes over; its client gets these messages again, and none of what waits."""
        self.ticket += 1
        self.waiting = deque(missed)
        for message in self.waiting:
            message.again = True
        self.size = sum(message.cost for message in self.waiting)
        self._changed.set()
