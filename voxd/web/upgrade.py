"""Decides whether a request for a WebSocket can be answered by one.  Step 3, below `server` and `gate`.

The WebSocket library refuses what it cannot read with plain text, which our log does not see, and not at all where a
header is not ASCII.  This module looks first: a request that the library would refuse stays an HTTP request and is
refused like any other.  It knows headers; not keys or sessions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake, InvalidHeader
from websockets.http11 import Request
from websockets.server import ServerProtocol


class Fault(NamedTuple):
    """`header`: what cannot be read; `message` says why."""

    header: str | None
    message: str


def fault(headers: Iterable[tuple[bytes, bytes]]) -> Fault | None:
    """What is wrong with the upgrade that these headers ask for."""
    read = Headers()
    for name, value in headers:
        read[name.decode("latin-1")] = value.decode("latin-1")
    try:
        ServerProtocol().process_request(Request("/", read))
    except InvalidHandshake as error:
        return Fault(error.name if isinstance(error, InvalidHeader) else None, str(error))
    return None
