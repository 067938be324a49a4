"""Decides who may have a session now, and knows the connections that have one.  Step 3 of a packet's path.

It knows the engine host's state and the limit of sessions; not HTTP, transports or settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from voxd.gateway.connection import Connection
from voxd.gateway.engine_host import EngineHost


class Refusal(NamedTuple):
    """Why there is no session now: an error code of the API, and a message for people."""

    code: str
    message: str


class Admission:
    """`limit`: how many sessions there may be, as the settings say now.  `count`: is told the code of each refusal."""

    def __init__(self, host: EngineHost, limit: Callable[[], int], count: Callable[[str], None]) -> None:
        self._host, self._limit, self._count = host, limit, count
        self._connections: set[Connection] = set()
        self.draining = False

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._connections))

    @property
    def state(self) -> str:
        """The state of the daemon, for people."""
        return "draining" if self.draining else self._host.state

    @property
    def limit(self) -> int:
        return self._limit()

    @property
    def is_open(self) -> bool:
        """Is there an engine, and is the daemon not stopping?"""
        return self.state == "ready"

    @property
    def is_loading(self) -> bool:
        """Will there be an engine soon?"""
        return self.state in ("loading", "restarting")

    def refusal(self) -> Refusal | None:
        """Why nobody can have a session now; None: there is a slot.  Do not await between this and `enter`."""
        if self.draining:
            return Refusal("shutting_down", "voxd is shutting down; connect again in a moment.")
        if self._host.state != "ready":
            return Refusal("engine_loading", f"The engine is not ready yet: {self._host.progress}.")
        if len(self) >= self.limit:
            return Refusal("session_limit_reached", f"All {len(self)} sessions are taken; see server.max_sessions.")
        return None

    def refused(self, code: str) -> None:
        """A client was sent away."""
        self._count(code)

    def enter(self, connection: Connection) -> None:
        """The connection takes a slot."""
        self._connections.add(connection)

    def leave(self, connection: Connection) -> None:
        """The connection's slot is free."""
        self._connections.discard(connection)
