"""Plain HTTP beside the WebSocket: health, readiness, status, models; and the gate in front of everything.

The gate: a UNIX socket's file mode is the right to use it.  Over TCP the Host must be ours (DNS rebinding), an Origin
must be the request's own host or allowed (a page of another site), and a key is wanted always: the bearer token, or a
client secret (`voxd.web.client_secrets`).  Whoever offers wrong keys is told to wait; a right key passes at any time,
for many people share one address behind a tunnel, and a token of 256 bits is not found by trying.  The body of what
passes has a deadline, and all bodies together a bound.  It does not know sessions or engines: it is given functions
that describe them.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from shared.events import WireError
from voxd.gateway.budget import BODIES, Held, Kept
from voxd.telemetry.log import HttpRefusals
from voxd.web.refused import noting
from voxd.web.upgrade import fault

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN_PATHS = frozenset({"/health"})  # says nothing but that the daemon lives
REALTIME_PATH = "/v1/realtime"
SECRETS_PATH = "/v1/realtime/client_secrets"  # the one path that a client secret does not open: it would live for ever
KEY_PROTOCOL = "openai-insecure-api-key."  # how a browser, which cannot set headers, hands over its key
FAILED_KEYS = 5  # in a window, from one peer
WINDOW_S = 60.0
PEERS = 1000  # that are remembered; above it the one that began to fail first is forgotten
METHODS = "GET, POST, DELETE"
REQUEST_HEADERS = frozenset(
    {"authorization", "api-key", "content-type", "user-agent", "idempotency-key", "last-event-id", "cache-control"}
    | {"x-request-id", "x-client-request-id", "traceparent", "tracestate", "baggage"}  # what SDKs and tracers add
)
REQUEST_PREFIXES = ("openai-", "x-openai-", "x-stainless-")
PREFLIGHT_S = 600
REQUEST_S = 120.0  # for the whole of a request, its body as it is
KEY_REFUSALS = (401, 429)  # host and origin were right


class Refusal(NamedTuple):
    status: int
    code: str
    message: str
    retry_s: int | None = None


def error_body(
    code: str | None, message: str, kind: str = "invalid_request_error", param: str | None = None
) -> dict[str, object]:
    """The error object of the API, for HTTP."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


async def body_of(request: Request, limit: int) -> bytes:
    """A body of `limit` bytes at most.  Raises WireError."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            raise WireError("request_too_large", f"The request is larger than {limit} bytes.")
    return bytes(data)


# ── the gate ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Failures:
    """How often each peer has offered a wrong key.  Bound: PEERS."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._peers: dict[str, tuple[float, int]] = {}  # start of the window, failures in it; oldest window first

    def count(self, peer: str) -> int | None:
        """One more; the seconds to wait when there have been too many."""
        now = self._clock()
        begun, failed = self._peers.get(peer, (now, 0))
        if now - begun >= WINDOW_S:
            begun, failed = now, 0
        if not failed:
            self._peers.pop(peer, None)  # a new window is the youngest
        self._peers[peer] = begun, failed + 1
        if len(self._peers) > PEERS:
            self._peers.pop(next(iter(self._peers)))
        return max(1, round(begun + WINDOW_S - now)) if failed >= FAILED_KEYS else None


def _no_secret(_: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Gate:
    """Who may come in.  `token` None: any key (`--no-token`).  `is_secret`: is this an unexpired client secret?"""

    token: bytes | None
    hosts: frozenset[str]  # names besides the loopback ones
    origins: frozenset[str]
    is_secret: Callable[[str], bool] = _no_secret
    failures: Failures = field(default_factory=Failures)
    open_paths: frozenset[str] = OPEN_PATHS  # that want no key

    def refuse(self, scope: Scope) -> Refusal | None:
        """None for what may pass."""
        headers = _headers(scope)
        if is_unix(scope):
            return self._refuse_page(headers.get("origin"))  # else whoever could open it may use it
        host = headers.get("host", "")
        name = _name(host)
        if name not in LOOPBACK and name not in self.hosts:
            message = f"This server does not answer to the host '{name}'; see server.allow_host."
            return Refusal(421, "host_not_allowed", message)
        origin = headers.get("origin")
        if origin is not None and not self._same_site(origin, host, name):
            message = f"Pages of '{origin}' may not use this server; see server.allow_origin."
            return Refusal(403, "origin_not_allowed", message)
        if scope["path"] in self.open_paths or is_preflight(scope) or self.token is None:
            return None
        return self._refuse_key(offered_key(scope), scope)

    def _refuse_page(self, origin: str | None) -> Refusal | None:
        """No page can open a UNIX socket; but a port that leads to it, as `ssh -L` makes one, is open to all pages of a
        browser there.  The host's name says nothing here, for a page may have its own name lead to this machine."""
        if origin is None or origin in self.origins or _origin_name(origin) in LOOPBACK:
            return None
        message = f"Pages of '{origin}' may not use this socket; see server.allow_origin."
        return Refusal(403, "origin_not_allowed", message)

    def _same_site(self, origin: str, host: str, name: str) -> bool:
        if origin in self.origins:
            return True
        own = _origin_name(origin)
        return bool(own) and (origin.partition("://")[2] == host or (own in LOOPBACK and name in LOOPBACK))

    def _refuse_key(self, key: str, scope: Scope) -> Refusal | None:
        if self.token is None or hmac.compare_digest(key.encode("utf-8", "replace"), self.token):
            return None
        if self.is_secret(key):
            if scope["path"] != SECRETS_PATH:
                return None
            return Refusal(401, "invalid_api_key", "A client secret cannot make client secrets; use the bearer token.")
        wait = self.failures.count(_peer(scope)) if key else None
        if wait is not None:
            return Refusal(429, "rate_limit_exceeded", f"Too many wrong keys; wait {wait} s.", wait)
        return Refusal(401, "invalid_api_key", "A bearer token is wanted; `voxd token` prints it on the server.")


def is_unix(scope: Scope) -> bool:
    return scope["server"][1] is None


def is_preflight(scope: Scope) -> bool:
    """A browser asks whether a page may send a request."""
    return scope.get("method") == "OPTIONS" and {"origin", "access-control-request-method"} <= _headers(scope).keys()


def offered_key(scope: Scope) -> str:
    """The key of a request or an upgrade, from the first place that has one; "" for none."""
    headers = _headers(scope)
    offered = headers.get("api-key") or headers.get("authorization", "").removeprefix("Bearer ")
    if offered:
        return offered
    protocols = (each.strip() for each in headers.get("sec-websocket-protocol", "").split(","))
    return next((p.removeprefix(KEY_PROTOCOL) for p in protocols if p.startswith(KEY_PROTOCOL)), "")


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _name(host: str) -> str:
    """`[::1]:8000` -> `::1`, `localhost:8000` -> `localhost`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _origin_name(origin: str) -> str:
    """ "" where there is none."""
    try:
        return _name(urlsplit(origin).netloc)
    except ValueError:  # of a bracket that is not closed
        return ""


class Guarded:
    """The gate as ASGI middleware, for HTTP and WebSocket upgrades alike; pages that may come are told so (CORS)."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app, self.gate = app, gate
        self._bodies = Kept(BODIES)
        self._refusals = HttpRefusals(time.monotonic)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        send = noting(scope, send, self._refusals)
        refusal = self.gate.refuse(scope)
        headers = _headers(scope)
        origin = headers.get("origin")
        known = refusal is None or refusal.status in KEY_REFUSALS
        if origin and known and scope["type"] == "http" and not is_unix(scope):
            send = _telling(send, origin)
        if refusal:
            status, code, message, retry_s = refusal
            more = {"Retry-After": str(retry_s)} if retry_s else {}
            await reply(scope, receive, send, status, error_body(code, message), more)
        elif scope["type"] == "http" and is_preflight(scope):
            await Response(status_code=204, headers=_permissions(headers))(scope, receive, send)
        elif scope["type"] == "websocket" and "call_id" in parse_qs(scope["query_string"].decode("latin-1"), True):
            await reply(
                scope, receive, send, 404, error_body("call_id_not_found", "There is no such call.", param="call_id")
            )
        elif scope["type"] == "http":
            with Held(self._bodies) as held:
                await self._app(scope, _in_bounds(receive, held), send)
        else:
            await self._app(scope, receive, send)


def _in_bounds(receive: Receive, held: Held) -> Receive:
    """The body of a request comes within REQUEST_S and into what all bodies may take, or is answered without."""
    deadline, whole = asyncio.get_running_loop().time() + REQUEST_S, False

    async def take() -> Message:
        nonlocal whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            late = f"The request did not come within {REQUEST_S:.0f} s."
            raise HTTPException(408, late, {"Connection": "close"}) from None
        whole = not message.get("more_body", False)
        if not held.grew(len(message.get("body", b""))):
            told = "The server holds as much of requests as it may; try again in a moment."
            raise HTTPException(503, told, {"Retry-After": "2", "Connection": "close"})
        return message

    return take


def _telling(send: Send, origin: str) -> Send:
    """Every answer tells the page's browser that the page may read it."""

    async def tell(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = "Location, Retry-After"
            headers.add_vary_header("Origin")
        await send(message)

    return tell


def _permissions(headers: Mapping[str, str]) -> dict[str, str]:
    """What a page may send: those of the headers it asks for that clients are known to need."""
    asked = (name.strip().lower() for name in headers.get("access-control-request-headers", "").split(","))
    allowed = [name for name in asked if name in REQUEST_HEADERS or name.startswith(REQUEST_PREFIXES)]
    return {
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": ", ".join(allowed),
        "Access-Control-Max-Age": str(PREFLIGHT_S),
    }


async def reply(
    scope: Scope,
    receive: Receive,
    send: Send,
    status: int,
    body: dict[str, object],
    headers: Mapping[str, str] | None = None,
) -> None:
    """A JSON answer to an HTTP request, or to a WebSocket upgrade that is refused."""
    response = JSONResponse(body, status, headers)
    await response(scope, receive, send)


# ── pages ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def routes(
    is_ready: Callable[[], bool], status: Callable[[], dict[str, object]], engines: Callable[[], Sequence[str]]
) -> list[Route]:
    """The read-only pages.  `engines`: the names of those that serve, the one that answers first."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        headers = {} if is_ready() else {"Retry-After": "2"}
        return JSONResponse(status(), 200 if is_ready() else 503, headers)

    async def status_page(_: Request) -> Response:
        return Response(json.dumps(status(), indent=1), media_type="application/json")

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(name) for name in engines()]})

    async def one_model(request: Request) -> Response:
        name, there = request.path_params["name"], engines()
        if name in there:
            return JSONResponse(_model(name))
        message = f"The model {name[:60]!r} does not exist here. There are: {', '.join(there) or 'none'}."
        return JSONResponse(error_body("model_not_found", message, param="model"), 404)

    return [
        Route("/health", health),
        Route("/ready", ready),
        Route("/status", status_page),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", one_model),
        Route(REALTIME_PATH, _not_upgraded, methods=["GET"]),
    ]


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "voxd"}


async def _not_upgraded(request: Request) -> Response:
    """A WebSocket's path, asked for without an upgrade.  A proxy that takes no notice of upgrades forwards the client's
    own headers and drops the two that name the next hop, so what is left tells one from the other."""
    message = f"{REALTIME_PATH} is a WebSocket: connect to it with ws:// (wss:// with TLS) and a WebSocket client."
    if "sec-websocket-key" in request.headers:
        wanted = {"Upgrade": "websocket", "Connection": "upgrade"}
        lost = [name for name, value in wanted.items() if value not in request.headers.get(name, "").lower()]
        if not lost and (wrong := fault(request.headers.raw)):
            return JSONResponse(error_body("invalid_header", f"No WebSocket: {wrong.message}", param=wrong.header), 400)
        message = (
            f"This was a WebSocket upgrade, but it came without {' and '.join(lost) or 'HTTP/1.1'}: a proxy on the way "
            "has to pass on `Upgrade` and `Connection`, by HTTP/1.1. In nginx: proxy_http_version 1.1; "
            'proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";'
        )
    headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
    return JSONResponse(error_body("upgrade_required", message), 426, headers)


def nowhere() -> BaseRoute:
    """The last route: an upgrade to a path that is none."""

    async def refuse(socket: WebSocket) -> None:
        body = error_body("unknown_url", f"Invalid URL (WebSocket {socket.url.path})")
        await socket.send_denial_response(JSONResponse(body, 404))

    return WebSocketRoute("/{path:path}", refuse)


async def error_page(request: Request, error: Exception) -> Response:
    """What the router refuses, as an error of the API: unknown paths (all of SIP's among them) and methods."""
    if not isinstance(error, HTTPException):
        raise error
    path = request.url.path
    code, message = {
        404: ("unknown_url", f"Invalid URL ({request.method} {path})"),
        408: ("request_timeout", error.detail),
        503: ("server_overloaded", error.detail),
        405: ("method_not_allowed", f"{path} does not take {request.method}"),
    }.get(error.status_code, ("invalid_request", error.detail))
    kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
    return JSONResponse(error_body(code, message, kind), error.status_code, error.headers)


ERROR_PAGES = {HTTPException: error_page}
