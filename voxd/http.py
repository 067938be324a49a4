"""Plain HTTP beside the WebSocket: health, readiness, status, models; and the gate in front of everything.

The gate: a UNIX socket's file mode is the right to use it.  Over TCP the Host must be ours (DNS rebinding), an Origin
must be the request's own host or allowed (a page of another site), and a bearer token is wanted always.
It does not know sessions or engines: it is given functions that describe them.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN_PATHS = frozenset({"/health"})  # says nothing but that the daemon lives
KEY_PROTOCOL = "openai-insecure-api-key."  # how a browser, which cannot set headers, hands over its key


def error_body(code: str, message: str, kind: str = "invalid_request_error") -> dict[str, object]:
    """The error object of the API, for HTTP."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


@dataclass(frozen=True, slots=True)
class Gate:
    """Who may come in.  `token` None: any key (`--no-token`)."""

    token: bytes | None
    hosts: frozenset[str]  # names besides the loopback ones
    origins: frozenset[str]

    def refuse(self, scope: Scope) -> tuple[int, str, str] | None:
        """(status, code, message), or None for what may pass."""
        if scope["server"][1] is None:
            return None  # a UNIX socket: whoever could open it may use it
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        name = _name(host)
        if name not in LOOPBACK and name not in self.hosts:
            return 421, "host_not_allowed", f"This server does not answer to the host '{name}'; see server.allow_host."
        origin = headers.get("origin")
        if origin is not None and not self._same_site(origin, host, name):
            return 403, "origin_not_allowed", f"Pages of '{origin}' may not use this server; see server.allow_origin."
        if scope["path"] not in OPEN_PATHS and not self._authorised(headers):
            return 401, "invalid_api_key", "A bearer token is wanted; `voxd token` prints it on the server."
        return None

    def _same_site(self, origin: str, host: str, name: str) -> bool:
        if origin in self.origins:
            return True
        own = _name(urlsplit(origin).netloc)
        return origin.partition("://")[2] == host or (own in LOOPBACK and name in LOOPBACK)

    def _authorised(self, headers: dict[str, str]) -> bool:
        if self.token is None:
            return True
        offered = headers.get("api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        if not offered:
            protocols = (each.strip() for each in headers.get("sec-websocket-protocol", "").split(","))
            offered = next((p.removeprefix(KEY_PROTOCOL) for p in protocols if p.startswith(KEY_PROTOCOL)), "")
        return hmac.compare_digest(offered.encode("utf-8", "replace"), self.token)


def _name(host: str) -> str:
    """`[::1]:8000` -> `::1`, `localhost:8000` -> `localhost`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


class Guarded:
    """The gate as ASGI middleware, for HTTP and for WebSocket upgrades alike."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._gate.refuse(scope) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        status, code, message = refusal
        await reply(scope, receive, send, status, error_body(code, message))


async def reply(
    scope: Scope,
    receive: Receive,
    send: Send,
    status: int,
    body: dict[str, object],
    headers: dict[str, str] | None = None,
) -> None:
    """A JSON answer to an HTTP request, or to a WebSocket upgrade that is refused."""
    response = JSONResponse(body, status, headers)
    await response(scope, receive, send)


def routes(
    is_ready: Callable[[], bool], status: Callable[[], dict[str, object]], model: Callable[[], str]
) -> list[Route]:
    """The read-only pages."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        headers = {} if is_ready() else {"Retry-After": "2"}
        return JSONResponse(status(), 200 if is_ready() else 503, headers)

    async def status_page(_: Request) -> Response:
        return Response(json.dumps(status(), indent=1), media_type="application/json")

    async def models(_: Request) -> Response:
        listed = {"id": model(), "object": "model", "created": 0, "owned_by": "voxd"}
        return JSONResponse({"object": "list", "data": [listed]})

    return [
        Route("/health", health),
        Route("/ready", ready),
        Route("/status", status_page),
        Route("/v1/models", models),
    ]
