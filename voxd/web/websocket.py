"""Connects a WebSocket to a Connection.  Steps 3 and 11 of a packet's path.

It knows the transport: messages, close codes, a vanished client.  It does not know events, audio or resumption.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from starlette.websockets import WebSocket, WebSocketDisconnect

from voxd.gateway.connection import Connection
from voxd.gateway.outgoing import Closed

log = logging.getLogger("voxd")
REASON = 120  # bytes; a close frame has room for 123


@dataclass(frozen=True, slots=True)
class End:
    """How a transport ended.  `vanished`: neither side has closed it properly, so its client may come back."""

    why: str
    vanished: bool = False


class _ClientGone(Exception):
    """The client is no longer there."""

    def __init__(self, end: End) -> None:
        super().__init__(end.why)
        self.end = end


async def serve(socket: WebSocket, connection: Connection) -> End:
    """Serves the WebSocket until either side ends it; returns how it ended.  The caller decides what happens to the
    session then."""
    ticket, end = connection.ticket, End("closed")
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_read(socket, connection))
            tasks.create_task(_write(socket, connection, ticket))
    except* _ClientGone as gone:
        end = next(each.end for each in gone.exceptions if isinstance(each, _ClientGone))
    except* Closed as closed:
        reason = closed.exceptions[0]
        end = End(str(reason))
        await close(socket, reason.code if isinstance(reason, Closed) else 1011, end.why)
    except* Exception as bug:
        # The wall: a bug of the gateway ends this connection, not the daemon.
        end = End("internal error")
        log.exception("internal error in %s", connection.id, exc_info=bug.exceptions[0])
        await close(socket, 1011, end.why)
    return end


async def _read(socket: WebSocket, connection: Connection) -> None:
    while True:
        await connection.readable.wait()
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            goodbye = message.get("code") in (1000, 1001)
            raise _ClientGone(End("closed by the client" if goodbye else "the client vanished", vanished=not goodbye))
        text = message.get("text")
        if text is not None:
            pieces = connection.work_on(text)
        else:
            pieces = connection.work_on_binary(message["bytes"])
        for _ in pieces:
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # messages may come faster than they are worked off: each is a turn


async def _write(socket: WebSocket, connection: Connection, ticket: int) -> None:
    while True:
        message = await connection.next_event(ticket)
        try:
            await socket.send_text(message.text)
        except (WebSocketDisconnect, RuntimeError, OSError):
            raise _ClientGone(End("the client vanished", vanished=True)) from None
        connection.written(message)


async def close(socket: WebSocket, code: int, reason: str) -> None:
    """Closes the WebSocket.  A reason that is too long for a close frame is cut between two characters."""
    try:
        await socket.close(code, reason.encode("utf-8", "replace")[:REASON].decode("utf-8", "ignore"))
    except (WebSocketDisconnect, RuntimeError, OSError):
        log.debug("the client was gone before the close frame")
