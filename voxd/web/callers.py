"""Who sends a request: a name for the log, and what a session of theirs begins with.  Step 3 of a packet's path.

It knows ASGI scopes; not keys, sessions or routes.
"""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import Scope

from shared.parts import Json
from voxd.gateway.sessions import Caller


def is_unix(scope: Scope) -> bool:
    """Did the request come through a UNIX socket, from a client on this machine?"""
    return scope["server"][1] is None


def peer_address(scope: Scope) -> str:
    """The client's IP address; "" if there is none."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def peer_name(scope: Scope) -> str:
    """The client as the log names it."""
    return "unix socket" if is_unix(scope) else peer_address(scope)


def caller_of(asked: HTTPConnection, session: Json) -> Caller:
    """The client of a request or of an upgrade.  `session`: the configuration that its client secret carries."""
    return Caller(peer_name(asked.scope), asked.query_params, session)
