"""Keeps sessions whose client has vanished and may come back.  Beside step 4.

It knows connections by their resume token, and how long they wait; not how they are resumed.

Bound: `limit` parked sessions; beyond it the one that has waited longest is closed.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterator

from voxd.gateway.connection import Connection

WAIT_S = 60.0
LIMIT = 64


class Parking:
    """Sessions that can be resumed: those that are served, and those that wait `wait_s` for their client."""

    def __init__(self, limit: int = LIMIT, wait_s: float = WAIT_S) -> None:
        self._limit, self._wait_s = limit, wait_s
        self._live: set[Connection] = set()
        self._parked: dict[Connection, asyncio.TimerHandle] = {}  # in order of arrival

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._parked))

    def admit(self, connection: Connection) -> None:
        """The connection is served, and can be found by its token from now on."""
        if timer := self._parked.pop(connection, None):
            timer.cancel()
        if connection.resume_token:
            self._live.add(connection)

    def park(self, connection: Connection) -> None:
        """The connection's client has vanished: waits for it."""
        connection.park()
        timer = asyncio.get_running_loop().call_later(self._wait_s, self._expire, connection)
        self._parked[connection] = timer
        while len(self._parked) > self._limit:
            self._expire(next(iter(self._parked)))

    def dismiss(self, connection: Connection, why: str) -> None:
        """The connection is over."""
        self._live.discard(connection)
        if timer := self._parked.pop(connection, None):
            timer.cancel()
        connection.close(why)

    def find(self, token: str, seq: int) -> Connection | None:
        """The session of a token, if everything that its client has missed since message `seq` is still here."""
        connection = self._of(token)
        return connection if connection is not None and connection.can_resume_after(seq) else None

    def served(self, token: str) -> Connection | None:
        """The session of a token, if its client is connected."""
        connection = self._of(token)
        return connection if connection is not None and connection not in self._parked else None

    def _of(self, token: str) -> Connection | None:
        wanted = token.encode("utf-8", "replace")
        for connection in self._live:
            known = (connection.resume_token or "").encode()
            if hmac.compare_digest(known, wanted):
                return connection
        return None

    def _expire(self, connection: Connection) -> None:
        self.dismiss(connection, "the client did not come back")
