"""One WebSocket ↔ one Connection.  Steps 3 and 11 of a frame's path.

It knows the transport: messages, close codes, a vanished peer.  It does not know events or audio.
"""

from __future__ import annotations

import asyncio
import logging

from starlette.websockets import WebSocket, WebSocketDisconnect

from voxd.connection import Closed, Connection

log = logging.getLogger("voxd")


class _Gone(Exception):
    """The peer is no longer there; the text says how it left."""


async def serve(socket: WebSocket, connection: Connection) -> None:
    """Runs until either side ends it.  The connection is closed, and its slot free, when this returns."""
    why = "closed by the client"
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_read(socket, connection))
            tasks.create_task(_write(socket, connection))
    except* _Gone as gone:
        why = str(gone.exceptions[0])
    except* Closed as closed:
        reason = closed.exceptions[0]
        why = str(reason)
        code = reason.code if isinstance(reason, Closed) else 1011
        await _close(socket, code, why)
    except* Exception as bug:
        # The wall: a bug of the gateway ends this connection, not the daemon.
        why = "internal error"
        log.exception("internal error in %s", connection.id, exc_info=bug.exceptions[0])
        await _close(socket, 1011, "internal error")
    finally:
        connection.close(why)


async def _read(socket: WebSocket, connection: Connection) -> None:
    while True:
        await connection.readable.wait()
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise _Gone("closed by the client" if message.get("code") in (1000, 1001) else "the client vanished")
        text = message.get("text")
        if text is not None:
            connection.receive_text(text)
        else:
            connection.receive_binary()


async def _write(socket: WebSocket, connection: Connection) -> None:
    while True:
        event, data = await connection.next_event()
        try:
            await socket.send_text(data.decode())
        except (WebSocketDisconnect, RuntimeError, OSError):
            raise _Gone("the client vanished") from None
        connection.written(event)


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    try:
        await socket.close(code, reason[:120])
    except (WebSocketDisconnect, RuntimeError, OSError):
        log.debug("the peer was gone before the close frame")
