"""One WebSocket ↔ one Connection.  Steps 3 and 11 of a frame's path.

It knows the transport: messages, close codes, a vanished peer.  It does not know events, audio or resumption.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from starlette.websockets import WebSocket, WebSocketDisconnect

from voxd.gateway.connection import Closed, Connection

log = logging.getLogger("voxd")


@dataclass(frozen=True, slots=True)
class End:
    """How a transport ended.  `vanished`: without a goodbye of either side; its client may come back."""

    why: str
    vanished: bool = False


class _Gone(Exception):
    """The peer is no longer there."""

    def __init__(self, end: End) -> None:
        super().__init__(end.why)
        self.end = end


async def serve(socket: WebSocket, connection: Connection) -> End:
    """Runs until either side ends it; says how it ended.  What becomes of the session then is the caller's affair."""
    ticket, end = connection.ticket, End("closed")
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_read(socket, connection))
            tasks.create_task(_write(socket, connection, ticket))
    except* _Gone as gone:
        end = next(each.end for each in gone.exceptions if isinstance(each, _Gone))
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
            raise _Gone(End("closed by the client" if goodbye else "the client vanished", vanished=not goodbye))
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
        waiting = await connection.next_event(ticket)
        try:
            await socket.send_text(waiting.data.decode())
        except (WebSocketDisconnect, RuntimeError, OSError):
            raise _Gone(End("the client vanished", vanished=True)) from None
        connection.written(waiting)


async def close(socket: WebSocket, code: int, reason: str) -> None:
    """A close frame has room for 123 bytes of reason; one that is longer is cut, and no letter of it in two."""
    try:
        await socket.close(code, reason.encode("utf-8", "replace")[:120].decode("utf-8", "ignore"))
    except (WebSocketDisconnect, RuntimeError, OSError):
        log.debug("the peer was gone before the close frame")
