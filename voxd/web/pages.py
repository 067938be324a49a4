"""The pages that only read: health, readiness, status, models; and the answers for unknown paths.  Not in the path.

It knows HTTP; not sessions or engines, which functions given to it describe.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from shared.parts import Json
from shared.urls import REALTIME
from voxd.web.problem import RETRY_S, HttpProblem, answer
from voxd.web.upgrade import fault

SHOWN = 60  # characters of a name that an error quotes


def routes(
    is_ready: Callable[[], bool], status: Callable[[], Json], engines: Callable[[], Sequence[str]]
) -> list[Route]:
    """The routes of the pages.  `engines`: the names of the engines in use, the one that answers first."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        if is_ready():
            return JSONResponse(status())
        return JSONResponse(status(), 503, {"Retry-After": str(RETRY_S)})

    async def status_page(_: Request) -> Response:
        return Response(json.dumps(status(), indent=1), media_type="application/json")

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(name) for name in engines()]})

    async def one_model(request: Request) -> Response:
        name, there = request.path_params["name"], engines()
        if name in there:
            return JSONResponse(_model(name))
        message = f"The model {name[:SHOWN]!r} does not exist here. There are: {', '.join(there) or 'none'}."
        raise HttpProblem(404, "model_not_found", message, "model")

    return [
        Route("/health", health),
        Route("/ready", ready),
        Route("/status", status_page),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", one_model),
        Route(REALTIME, _not_upgraded, methods=["GET"]),
    ]


def _model(name: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "voxd"}


async def _not_upgraded(request: Request) -> Response:
    """Refuses a plain GET of the WebSocket's path.

    A proxy that does not support upgrades passes on the client's own headers but drops `Upgrade` and `Connection`, so
    the headers that are left show whether a proxy is at fault."""
    message = f"{REALTIME} is a WebSocket: connect to it with ws:// (wss:// with TLS) and a WebSocket client."
    if "sec-websocket-key" in request.headers:
        wanted = {"Upgrade": "websocket", "Connection": "upgrade"}
        lost = [name for name, value in wanted.items() if value not in request.headers.get(name, "").lower()]
        if not lost and (wrong := fault(request.headers.raw)):
            raise HttpProblem(400, "invalid_header", f"No WebSocket: {wrong.message}", wrong.header)
        message = (
            f"This was a WebSocket upgrade, but it came without {' and '.join(lost) or 'HTTP/1.1'}: a proxy on the way "
            "has to pass on `Upgrade` and `Connection`, by HTTP/1.1. In nginx: proxy_http_version 1.1; "
            'proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";'
        )
    raise HttpProblem(426, "upgrade_required", message, headers={"Upgrade": "websocket", "Connection": "Upgrade"})


def nowhere() -> BaseRoute:
    """The last route: refuses a WebSocket upgrade to an unknown path."""

    async def refuse(socket: WebSocket) -> None:
        problem = HttpProblem(404, "unknown_url", f"Invalid URL (WebSocket {socket.url.path})")
        await socket.send_denial_response(problem.response())

    return WebSocketRoute("/{path:path}", refuse)


async def _router_problem(request: Request, error: Exception) -> Response:
    """What Starlette's router refuses, as an error of the API: unknown paths (all of SIP among them) and methods."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    code, message = {
        404: ("unknown_url", f"Invalid URL ({request.method} {path})"),
        405: ("method_not_allowed", f"{path} does not take {request.method}"),
    }.get(error.status_code, ("invalid_request", error.detail))
    return HttpProblem(error.status_code, code, message, headers=error.headers).response()


ERROR_PAGES = {HTTPException: _router_problem, HttpProblem: answer}
