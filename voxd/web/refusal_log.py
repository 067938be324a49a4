"""Logs every refusal of an HTTP request or a WebSocket upgrade as its answer leaves.  Beside step 3.

A refusal is an answer with status 400 or more whose body is the API's error object, so none can be forgotten.  It knows
ASGI messages and that object; not why a request was refused.
"""

from __future__ import annotations

import msgspec
from starlette.types import Message, Scope, Send

from voxd.telemetry.log import HttpRefusals
from voxd.web.callers import peer_name

LARGEST = 16 << 10  # bytes; a larger body is not taken for an error object


class _Error(msgspec.Struct):
    code: str | None = None
    param: str | None = None


class _Body(msgspec.Struct):
    error: _Error


def noting(scope: Scope, send: Send, refusals: HttpRefusals) -> Send:
    """A `send` that also logs refusals."""
    peer, status = peer_name(scope), 0

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
