"""An application without a gate behind voxd's own server: it echoes messages and shows everybody a secret.

`python -m benchmarks.ws_echo` prints where it listens.  What is tested with it is `voxd.web.server`, not voxd.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from voxd.web.server import Server

SECRET = "the secret of the naive server"


async def echo(link: WebSocket) -> None:
    await link.accept(next(iter(link.scope["subprotocols"]), None))
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # RuntimeError: the peer closed while this was sending
        while True:
            message = await link.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("text") is not None:
                await link.send_text(message["text"])
            else:
                await link.send_bytes(message["bytes"])


async def secret(_: Request) -> Response:
    return PlainTextResponse(SECRET, headers={"Access-Control-Allow-Origin": "*"})


async def never(request: Request) -> Response:
    """Answers when nobody waits any more."""
    while not await request.is_disconnected():
        await request.receive()
    return Response()


def application() -> Starlette:
    pages = [Route(path, secret) for path in ("/status", "/v1/models")]
    pages.append(Route("/late", never))
    return Starlette(routes=[*pages, WebSocketRoute("/{path:path}", echo)])


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    server = Server(application())
    server.config.ws_ping_interval = None  # the runner takes a ping, due or not, for a wrong answer
    asyncio.run(server.serve(sockets=[listener]))


@contextmanager
def echo_process() -> Iterator[str]:
    """Runs the server in a process of its own, and gives its address."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.ws_echo"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    main()
