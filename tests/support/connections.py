"""A `Connection` without a daemon, and a desk for sessions that opens none."""

from __future__ import annotations

from typing import Any

from voxd.gateway.admission import Refusal
from voxd.gateway.budget import Budget
from voxd.gateway.connection import Connection
from voxd.gateway.dialect import Dialect
from voxd.gateway.sessions import Caller, OnOutput
from voxd.session.terms import Profile
from voxd.telemetry.log import BreachLimiter
from voxd.telemetry.turn_meter import Targets


def connection(host: Any, **changes: Any) -> Connection:
    """A connection to this host; its clock stands still.  `changes`: arguments of Connection that differ."""
    usual: dict[str, Any] = {
        "host": host,
        "clock": lambda: 0,
        "targets": Targets(),
        "limiter": BreachLimiter(),
        "budget": Budget(),
        "profile": lambda ready: Profile("echo", None),
        "peer": "",
        "dialect": Dialect({}, 0),
    }
    return Connection(**usual | changes)


class ClosedDesk:
    """A `SessionDesk` that refuses nobody, and fails if it is asked for a session."""

    limit, transcriber, languages, now_us = 100, "echo", (), 0

    def refusal(self) -> Refusal | None:
        return None

    def refused(self, code: str) -> None:
        """Nobody counts."""

    def open_call(self, caller: Caller, session: object) -> Connection:
        raise AssertionError("no call is to be opened here")

    def open_file(self, peer: str, on_output: OnOutput) -> Connection:
        raise AssertionError("no file is to be transcribed here")

    def end(self, connection: Connection, why: str) -> None:
        raise AssertionError("no session was opened here")

    def find(self, token: str) -> Connection | None:
        return None
