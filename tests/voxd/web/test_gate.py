"""The gate in front of everything: what it refuses, what pages of other origins are told, and unknown paths."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from voxd.web import gate as http
from voxd.web.gate import Failures, Gate, Guarded
from voxd.web.pages import ERROR_PAGES, nowhere, routes
from voxd.web.problem import HttpProblem

TOKEN = "s3cret-token"
GATE = Gate(TOKEN.encode(), frozenset({"gpu.example"}), frozenset({"https://app.example"}))
AUTH = {"authorization": f"Bearer {TOKEN}"}


def scope(path: str = "/status", unix: bool = False, **headers: str) -> dict[str, Any]:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "path": path, "server": ("/x", None) if unix else ("127.0.0.1", 8000), "headers": raw}


def verdict(**fields: Any) -> int:
    refusal = GATE.refuse(scope(**fields))
    return 200 if refusal is None else refusal.status


def test_a_unix_socket_is_its_own_right() -> None:
    assert verdict(unix=True) == 200
    assert verdict(unix=True, host="anything") == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200),
        ("http://[::1]:8000", 200),
        ("https://app.example", 200),
        ("https://evil.example", 403),
        ("http://evil.example:8000", 403),
        ("http://localhost.evil.example", 403),
        ("http://localhost@evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://[", 403),
        ("file://", 403),
    ],
)
@pytest.mark.parametrize("path", ["/v1/realtime/client_secrets", "/v1/realtime", "/status", "/health"])
def test_a_page_that_reaches_the_unix_socket_through_a_port_must_be_of_this_machine(
    path: str, origin: str, status: int
) -> None:
    """A page whose name was made to lead here is refused too, although origin and host agree."""
    assert verdict(unix=True, path=path, host="localhost:8000", origin=origin) == status
    assert verdict(unix=True, path=path, host=origin.partition("://")[2], origin=origin) == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost:8000"} | AUTH, 200),
        ({"host": "[::1]:8000"} | AUTH, 200),
        ({"host": "gpu.example"} | AUTH, 200),
        ({"host": "localhost:8000", "api_key": TOKEN}, 200),
        (
            {
                "host": "localhost:8000",
                "sec_websocket_protocol": f"realtime, openai-insecure-api-key.{TOKEN}",
            },
            200,
        ),
        ({"host": "localhost:8000"}, 401),
        ({"host": "localhost:8000", "authorization": "Bearer nope"}, 401),
        ({"host": "localhost:8000", "authorization": f"Bearer {TOKEN}x"}, 401),
        ({"host": "localhost:8000", "authorization": "Bearer é"}, 401),
        ({"host": "evil.example"} | AUTH, 421),
        (AUTH, 421),
        ({"host": "localhost:8000", "origin": "http://localhost:3000"} | AUTH, 200),
        ({"host": "localhost:8000", "origin": "https://app.example"} | AUTH, 200),
        ({"host": "gpu.example", "origin": "https://gpu.example"} | AUTH, 200),
        ({"host": "localhost:8000", "origin": "https://evil.example"} | AUTH, 403),
        ({"host": "localhost:8000", "origin": "null"} | AUTH, 403),
        ({"host": "localhost:8000", "origin": "http://["} | AUTH, 403),
        ({"host": "gpu.example", "origin": "http://localhost:3000"} | AUTH, 403),
    ],
)
def test_who_may_come_in_over_tcp(headers: dict[str, str], status: int) -> None:
    assert verdict(**headers) == status


def test_health_says_nothing_and_needs_no_token() -> None:
    assert verdict(path="/health", host="localhost:8000") == 200
    assert verdict(path="/health", host="evil.example") == 421


def test_without_a_token_any_key_does() -> None:
    assert Gate(None, frozenset(), frozenset()).refuse(scope(host="localhost")) is None


# ── wrong keys ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def asks(gate: Gate, key: str | None, peer: str = "10.0.0.1") -> HttpProblem | None:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return gate.refuse(scope(host="localhost", **headers) | {"client": (peer, 1234)})


def status_of(refusal: HttpProblem | None) -> int:
    return 200 if refusal is None else refusal.status


def test_who_offers_wrong_keys_is_told_to_wait() -> None:
    clock = Clock()
    gate = replace(GATE, failures=Failures(clock))

    assert [status_of(asks(gate, "wrong")) for _ in range(7)] == [401] * 5 + [429] * 2
    clock.now += 20
    refusal = asks(gate, "wrong")
    assert refusal is not None
    assert (refusal.code, refusal.headers["Retry-After"]) == ("rate_limit_exceeded", "40")
    assert status_of(asks(gate, "wrong", "10.0.0.2")) == 401, "another peer"
    assert status_of(asks(gate, TOKEN)) == 200, "the right key passes: addresses are shared"
    clock.now += 40
    assert status_of(asks(gate, "wrong")) == 401


def test_no_key_is_not_a_wrong_key() -> None:
    gate = replace(GATE, failures=Failures(Clock()))
    assert {status_of(asks(gate, None)) for _ in range(20)} == {401}


def test_only_so_many_peers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PEERS", 2)
    failures = Failures(Clock())
    for peer in ("a", "a", "b", "c"):
        failures.count(peer)
    assert list(failures._peers) == ["b", "c"]


def test_a_client_secret_is_a_key_but_not_for_making_more() -> None:
    gate = replace(GATE, is_secret=lambda key: key == "ek_good", failures=Failures(Clock()))

    assert status_of(asks(gate, "ek_good")) == 200
    assert status_of(asks(gate, "ek_bad")) == 401
    for _ in range(9):
        refusal = gate.refuse(scope("/v1/realtime/client_secrets", host="localhost", authorization="Bearer ek_good"))
        assert status_of(refusal) == 401


# ── pages of other origins, and pages that are none ─────────────────────────────────────────────────────────────────

ORIGIN = {"Origin": "https://app.example"}
ASKED = (
    "authorization, content-type, x-openai-agents-sdk, x-stainless-lang, x-evil, x-stainless-retry-count, api-key, "
    "openai-organization, OpenAI-Project, openai-beta, user-agent, x-openai-client, idempotency-key"
)


async def hello(socket: WebSocket) -> None:
    await socket.accept()
    await socket.close()


def application() -> Guarded:
    pages = routes(lambda: True, lambda: {"state": "ready"}, lambda: ("cascade", "whisper"))
    post = Route("/v1/realtime/calls", lambda _: JSONResponse({}), methods=["POST"])
    every = [*pages, post, WebSocketRoute("/v1/realtime", hello), nowhere()]
    return Guarded(Starlette(routes=every, exception_handlers=ERROR_PAGES), replace(GATE, failures=Failures(Clock())))


@asynccontextmanager
async def client(**headers: str) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application())
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000", headers=headers) as asking:
        yield asking


async def test_a_page_of_an_allowed_origin_may_ask_before_it_sends() -> None:
    preflight = ORIGIN | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": ASKED}
    async with client(**preflight) as asking:
        answer = await asking.options("/v1/realtime/calls")

    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "POST" in answer.headers["access-control-allow-methods"]
    allowed = answer.headers["access-control-allow-headers"].split(", ")
    assert allowed == [name for name in ASKED.lower().split(", ") if name != "x-evil"]
    assert "Origin" in answer.headers["vary"]


async def test_a_page_may_read_answers_and_refusals_of_its_key_and_the_location_of_a_call() -> None:
    for headers, status in ((ORIGIN | {"Authorization": f"Bearer {TOKEN}"}, 200), (ORIGIN, 401)):
        async with client(**headers) as asking:
            answer = await asking.post("/v1/realtime/calls")
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "Location" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, ORIGIN | {"Host": "evil.example"}])
async def test_other_pages_are_told_nothing(headers: dict[str, str]) -> None:
    async with client(**headers, **{"Access-Control-Request-Method": "POST"}) as asking:
        for answer in (await asking.options("/v1/realtime/calls"), await asking.post("/v1/realtime/calls")):
            assert answer.status_code in (403, 421)
            assert not any(name.startswith("access-control") for name in answer.headers)


async def test_without_an_origin_there_is_nothing_to_allow() -> None:
    async with client(**AUTH) as asking:
        assert not any(name.startswith("access-control") for name in (await asking.get("/v1/models")).headers)


async def test_every_engine_that_serves_is_a_model() -> None:
    async with client(**AUTH) as asking:
        listed = (await asking.get("/v1/models")).json()
        for model in listed["data"]:
            assert (await asking.get(f"/v1/models/{model['id']}")).json() == model
        unknown = await asking.get("/v1/models/mistralai/nope")

    assert [model["id"] for model in listed["data"]] == ["cascade", "whisper"]
    assert listed["object"] == "list"
    error = unknown.json()["error"]
    assert (unknown.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "cascade, whisper" in error["message"]


KEY = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}


@pytest.mark.parametrize(
    ("headers", "told", "not_told"),
    [
        ({}, "ws://", "proxy"),
        (KEY, "without Upgrade and Connection: a proxy", ""),
        (KEY | {"Upgrade": "websocket", "Connection": "close"}, "without Connection: a proxy", "without Upgrade"),
        (KEY | {"Connection": "keep-alive, Upgrade"}, "without Upgrade: a proxy", "and Connection:"),
        (KEY | {"Upgrade": "WebSocket", "Connection": "Upgrade"}, "without HTTP/1.1: a proxy", ""),
    ],
)
async def test_a_websocket_asked_for_without_an_upgrade_says_what_is_missing(
    headers: dict[str, str], told: str, not_told: str
) -> None:
    async with client(**AUTH, **headers) as asking:
        answer = await asking.get("/v1/realtime?model=x")

    assert answer.status_code == 426
    assert answer.headers["upgrade"] == "websocket"
    error = answer.json()["error"]
    assert error["code"] == "upgrade_required"
    assert told in error["message"]
    assert not not_told or not_told not in error["message"]


SIP = [f"/v1/realtime/calls/rtc_1/{what}" for what in ("accept", "reject", "refer")]


@pytest.mark.parametrize("path", ["/", "/v1/nope", *SIP])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_an_unknown_path_is_an_error_of_the_api(path: str, method: str) -> None:
    async with client(**AUTH) as asking:
        answer = await asking.request(method, path)

    assert answer.status_code == 404
    assert answer.json()["error"] == {
        "message": f"Invalid URL ({method} {path})",
        "type": "invalid_request_error",
        "param": None,
        "code": "unknown_url",
    }


async def test_a_method_that_a_path_does_not_take() -> None:
    async with client(**AUTH) as asking:
        answer = await asking.post("/v1/models")

    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert "GET" in answer.headers["allow"]


async def test_too_many_wrong_keys_are_answered_with_the_time_to_wait() -> None:
    async with client(Authorization="Bearer wrong") as asking:
        answers = [await asking.get("/v1/models") for _ in range(6)]

    assert [answer.status_code for answer in answers] == [401] * 5 + [429]
    assert answers[-1].headers["retry-after"] == "60"


async def upgrade(path: str, query: str = "") -> list[dict[str, Any]]:
    """The answer to an upgrade."""
    asked: dict[str, Any] = scope(path, host="localhost", **AUTH)
    asked |= {"type": "websocket", "query_string": query.encode(), "root_path": "", "scheme": "ws", "subprotocols": []}
    asked["extensions"] = {"websocket.http.response": {}}
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await application()(asked, receive, send)
    return sent


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("/v1/realtime", "call_id=rtc_1", "call_id_not_found"),
        ("/v1/realtime", "model=x&call_id=", "call_id_not_found"),
        ("/v1/nope", "", "unknown_url"),
    ],
)
async def test_an_upgrade_to_what_is_not_there(path: str, query: str, code: str) -> None:
    start, *body = await upgrade(path, query)

    assert (start["type"], start["status"]) == ("websocket.http.response.start", 404)
    assert json.loads(body[0]["body"])["error"]["code"] == code


async def test_an_upgrade_to_what_is_there() -> None:
    assert [message["type"] for message in await upgrade("/v1/realtime", "model=x")] == [
        "websocket.accept",
        "websocket.close",
    ]
