"""Is a request for a WebSocket one that can be answered by a WebSocket?  Below `server` and `gate`.

The library that speaks WebSocket refuses what it cannot read by plain text, which no log of ours sees, and by
nothing at all where a header is not ASCII.  So it is asked before: a request that it would refuse stays a request, and
is refused as any other.
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
