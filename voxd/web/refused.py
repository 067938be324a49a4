"""Refusals over HTTP, and of upgrades, as they leave: each is in the log, whoever wrote it.

One place for all of them: an answer of status 400 or more whose body is the API's error object.  It knows ASGI messages
and that object; not why anything was refused.
"""

from __future__ import annotations

import msgspec
from starlette.types import Message, Scope, Send

from voxd.telemetry.log import HttpRefusals

LARGEST = 16 << 10  # bytes of an error's body; what is larger is none


class _Error(msgspec.Struct):
    code: str | None = None
    param: str | None = None


class _Body(msgspec.Struct):
    error: _Error


def noting(scope: Scope, send: Send, refusals: HttpRefusals) -> Send:
    """`send` that also tells of refusals."""
    client = scope.get("client")
    peer = "unix socket" if scope["server"][1] is None else str(client[0]) if client else ""
    status = 0

    async def note(message: Message) -> None:
        nonlocal status
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            status = message["status"]
        elif message["type"] in ("http.response.body", "websocket.http.response.body") and status >= 400:
            status, error = 0, _error(message.get("body", b""))
            if error is not None and error.code:
                refusals.tell(error.code, error.param, peer)
        await send(message)

    return note


def _error(body: bytes) -> _Error | None:
    try:
        return msgspec.json.decode(body, type=_Body).error if len(body) <= LARGEST else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
