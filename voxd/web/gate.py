"""The gate in front of everything: decides which HTTP requests and WebSocket upgrades may come in.  Before step 3.

At a UNIX socket the file's mode decides.  Over TCP the Host must be a name of this server (against DNS rebinding), an
Origin must be the request's own host or allowed (against pages of other sites), and a key is required: the bearer token
or a client secret (`voxd.web.client_secrets`).  An address that offers wrong keys is told to wait; a right key passes
at any time, because many people may share an address behind a tunnel, and nobody finds a token of 256 bits by trying.

The body of a request has a deadline, and all bodies together have a bound.  The gate does not know sessions, engines or
routes.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.urls import CLIENT_SECRETS
from voxd.gateway.budget import BODIES, Held, Kept
from voxd.telemetry.log import HttpRefusals
from voxd.web.callers import is_unix, peer_address
from voxd.web.problem import HttpProblem
from voxd.web.refusal_log import noting

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN_PATHS = frozenset({"/health"})  # it says only that the daemon is alive
KEY_PROTOCOL = "openai-insecure-api-key."  # the subprotocol by which a browser, which cannot set headers, sends a key
FAILED_KEYS = 5  # in a window, from one address
WINDOW_S = 60.0
PEERS = 1000  # addresses that are remembered; beyond it the one that failed first is forgotten
METHODS = "GET, POST, DELETE"
REQUEST_HEADERS = frozenset(
    {"authorization", "api-key", "content-type", "user-agent", "idempotency-key", "last-event-id", "cache-control"}
    | {"x-request-id", "x-client-request-id", "traceparent", "tracestate", "baggage"}  # what SDKs and tracers add
)
REQUEST_PREFIXES = ("openai-", "x-openai-", "x-stainless-")
PREFLIGHT_S = 600
REQUEST_S = 120.0  # for a request with its body
KEY_REFUSALS = (401, 429)  # statuses of refusals whose host and origin were right


async def body_of(request: Request, limit: int) -> bytes:
    """A body of `limit` bytes at most.  Raises HttpProblem."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            raise HttpProblem(413, "request_too_large", f"The request is larger than {limit} bytes.")
    return bytes(data)


# ── the gate ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Failures:
    """Counts how often each client address has offered a wrong key.  Bound: PEERS."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._peers: dict[str, tuple[float, int]] = {}  # start of the window, failures in it; oldest window first

    def count(self, peer: str) -> int | None:
        """Counts one more.  Returns the seconds to wait if there have been too many."""
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
    """Decides who may come in.  `token` None: no key is required (`--no-token`).  `is_secret`: is a key a valid client
    secret?"""

    token: bytes | None
    hosts: frozenset[str]  # host names of this server besides the loopback ones
    origins: frozenset[str]
    is_secret: Callable[[str], bool] = _no_secret
    failures: Failures = field(default_factory=Failures)
    open_paths: frozenset[str] = OPEN_PATHS  # paths that require no key

    def refuse(self, scope: Scope) -> HttpProblem | None:
        """Why a request or an upgrade is refused; None if it may pass."""
        headers = _headers(scope)
        if is_unix(scope):
            return self._refuse_page(headers.get("origin"))  # the file's mode has checked everything else
        host = headers.get("host", "")
        name = _name(host)
        if name not in LOOPBACK and name not in self.hosts:
            message = f"This server does not answer to the host '{name}'; see server.allow_host."
            return HttpProblem(421, "host_not_allowed", message)
        origin = headers.get("origin")
        if origin is not None and not self._same_site(origin, host, name):
            message = f"Pages of '{origin}' may not use this server; see server.allow_origin."
            return HttpProblem(403, "origin_not_allowed", message)
        if scope["path"] in self.open_paths or is_preflight(scope) or self.token is None:
            return None
        return self._refuse_key(offered_key(scope), scope)

    def _refuse_page(self, origin: str | None) -> HttpProblem | None:
        """Refuses pages of other sites at a UNIX socket.

        No page can open a UNIX socket, but a port that leads to it (`ssh -L`) is open to all pages of a browser on that
        machine.  The Host header proves nothing here, because a page's own name may lead to that machine."""
        if origin is None or origin in self.origins or _origin_name(origin) in LOOPBACK:
            return None
        message = f"Pages of '{origin}' may not use this socket; see server.allow_origin."
        return HttpProblem(403, "origin_not_allowed", message)

    def _same_site(self, origin: str, host: str, name: str) -> bool:
        if origin in self.origins:
            return True
        own = _origin_name(origin)
        return bool(own) and (origin.partition("://")[2] == host or (own in LOOPBACK and name in LOOPBACK))

    def _refuse_key(self, key: str, scope: Scope) -> HttpProblem | None:
        if self.token is None or hmac.compare_digest(key.encode("utf-8", "replace"), self.token):
            return None
        if self.is_secret(key):
            if scope["path"] != CLIENT_SECRETS:  # a secret that could make others would live for ever
                return None
            return HttpProblem(
                401, "invalid_api_key", "A client secret cannot make client secrets; use the bearer token."
            )
        wait = self.failures.count(peer_address(scope)) if key else None
        if wait is not None:
            return HttpProblem(429, "rate_limit_exceeded", f"Too many wrong keys; wait {wait} s.", retry_s=wait)
        return HttpProblem(401, "invalid_api_key", "A bearer token is required; `voxd token` on the server prints it.")


def is_preflight(scope: Scope) -> bool:
    """Whether this is a browser's preflight, which asks if a page may send a request."""
    return scope.get("method") == "OPTIONS" and {"origin", "access-control-request-method"} <= _headers(scope).keys()


def offered_key(scope: Scope) -> str:
    """The key of a request or an upgrade, from the first header that has one; "" if none has."""
    headers = _headers(scope)
    offered = headers.get("api-key") or headers.get("authorization", "").removeprefix("Bearer ")
    if offered:
        return offered
    protocols = (each.strip() for each in headers.get("sec-websocket-protocol", "").split(","))
    return next((p.removeprefix(KEY_PROTOCOL) for p in protocols if p.startswith(KEY_PROTOCOL)), "")


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _name(host: str) -> str:
    """`[::1]:8000` -> `::1`, `localhost:8000` -> `localhost`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _origin_name(origin: str) -> str:
    """The host name of an origin; "" if it has none."""
    try:
        return _name(urlsplit(origin).netloc)
    except ValueError:  # a bracket that is not closed
        return ""


class Guarded:
    """The gate as ASGI middleware, for HTTP requests and WebSocket upgrades; it also answers for CORS."""

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
            await refusal.response()(scope, receive, send)
        elif scope["type"] == "http" and is_preflight(scope):
            await Response(status_code=204, headers=_permissions(headers))(scope, receive, send)
        elif scope["type"] == "websocket" and "call_id" in parse_qs(scope["query_string"].decode("latin-1"), True):
            problem = HttpProblem(404, "call_id_not_found", "There is no such call.", "call_id")
            await problem.response()(scope, receive, send)
        elif scope["type"] == "http":
            with Held(self._bodies) as held:
                await self._app(scope, _in_bounds(receive, held), send)
        else:
            await self._app(scope, receive, send)


def _in_bounds(receive: Receive, held: Held) -> Receive:
    """A `receive` that raises HttpProblem for a request that takes longer than REQUEST_S, or that is too much for the
    memory that all bodies may take."""
    deadline, whole = asyncio.get_running_loop().time() + REQUEST_S, False

    async def take() -> Message:
        nonlocal whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            late = f"The request was not complete within {REQUEST_S:.0f} s."
            raise HttpProblem(408, "request_timeout", late, headers={"Connection": "close"}) from None
        whole = not message.get("more_body", False)
        if not held.grew(len(message.get("body", b""))):
            told = "The server has no memory left for requests; try again in a moment."
            raise HttpProblem(503, "server_overloaded", told, headers={"Connection": "close"})
        return message

    return take


def _telling(send: Send, origin: str) -> Send:
    """A `send` that tells the browser, with every answer, that the page may read it."""

    async def tell(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = "Location, Retry-After"
            headers.add_vary_header("Origin")
        await send(message)

    return tell


def _permissions(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that a page may send: those it asks for that known clients need."""
    asked = (name.strip().lower() for name in headers.get("access-control-request-headers", "").split(","))
    allowed = [name for name in asked if name in REQUEST_HEADERS or name.startswith(REQUEST_PREFIXES)]
    return {
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": ", ".join(allowed),
        "Access-Control-Max-Age": str(PREFLIGHT_S),
    }
