"""Client secrets: the store, the endpoint, and the sessions that they open."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from hypothesis import given, strategies as st
from starlette.applications import Starlette

from shared.session_config import RealtimeSession, TranscriptionSession, merge
from voxd.web import client_secrets as secrets
from voxd.web.client_secrets import Secrets, TooManySecrets, client_secrets, secret_of
from voxd.web.gate import Gate, Guarded
from voxd.web.pages import ERROR_PAGES, routes

TOKEN = "s3cret-token"
NOW = 1_770_000_000
PATH = "/v1/realtime/client_secrets"


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


def a_store(clock: Clock) -> Secrets:
    """A store on a machine whose time of day is never set."""
    return Secrets(clock, clock)


# ── the store ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_secret_is_good_until_it_expires_as_often_as_wanted() -> None:
    clock = Clock()
    store = a_store(clock)
    secret = store.make(600, {"instructions": "Be brief."})

    assert secret.value.startswith("ek_")
    assert len(secret.value) > 40
    assert [store.find(secret.value) for _ in range(3)] == [secret] * 3
    clock.now += 599
    assert store.holds(secret.value)
    clock.now += 1
    assert not store.holds(secret.value)
    clock.now -= 10
    assert not store.holds(secret.value), "a clock that is set back does not revive it"


def test_setting_the_machines_time_neither_prolongs_nor_ends_a_secret() -> None:
    clock, epoch = Clock(), Clock()
    store = Secrets(clock, epoch)
    secret = store.make(600, {})
    assert secret.expires_at == NOW + 600
    for shift in (-7200, 7200, 10**8):
        epoch.now = NOW + shift
        assert store.holds(secret.value)
    clock.now += 600
    epoch.now = 0
    assert not store.holds(secret.value)


@given(st.text())
def test_nothing_else_is_a_secret(key: str) -> None:
    store = a_store(Clock())
    value = store.make(600, {}).value

    for each in (key, f"ek_{key}", value + key if key else "", value[:-1], value.upper()):
        assert not store.holds(each)


def test_the_store_is_bounded_and_makes_room_by_expiry_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "MOST", 3)
    clock = Clock()
    store = a_store(clock)
    early, *late = [store.make(seconds, {}) for seconds in (10, 600, 600)]

    with pytest.raises(TooManySecrets):
        store.make(600, {})
    assert all(store.holds(each.value) for each in (early, *late))
    clock.now += 10
    newest = store.make(600, {})
    assert [store.holds(each.value) for each in (early, *late, newest)] == [False, True, True, True]


# ── the endpoint ────────────────────────────────────────────────────────────────────────────────────────────────────


def application(store: Secrets) -> Guarded:
    pages = routes(lambda: True, lambda: {"state": "ready"}, lambda: ("echo",))
    route = client_secrets(store, lambda: RealtimeSession(id="sess_new", model="echo"), lambda: "echo")
    gate = Gate(TOKEN.encode(), frozenset(), frozenset(), store.holds)
    return Guarded(Starlette(routes=[*pages, route], exception_handlers=ERROR_PAGES), gate)


@asynccontextmanager
async def client(store: Secrets, key: str | None = TOKEN) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    transport = httpx.ASGITransport(application(store))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000", headers=headers) as asking:
        yield asking


async def make(body: Any, store: Secrets | None = None) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with client(store or a_store(Clock())) as asking:
        return await asking.post(PATH, content=content)


@pytest.mark.parametrize("body", [{}, {"session": None}, {"expires_after": {"anchor": "created_at"}}, b""])
async def test_the_defaults_are_a_conversation_and_ten_minutes(body: Any) -> None:
    store = a_store(Clock())
    made = await make(body, store)

    assert made.status_code == 200
    assert made.json()["expires_at"] == NOW + 600
    assert made.headers["cache-control"] == "no-store"
    session = made.json()["session"]
    assert (session["type"], session["id"], session["object"]) == ("realtime", "sess_new", "realtime.session")
    assert session["audio"]["input"]["turn_detection"]["type"] == "server_vad", "it is complete"
    secret = store.find(made.json()["value"])
    assert secret is not None
    assert secret.session == {}, "the URL still decides the type"


async def test_the_session_is_shown_as_it_will_begin_and_kept() -> None:
    store = a_store(Clock())
    asked = {"model": "gpt-realtime", "instructions": "Be brief.", "output_modalities": ["audio"]}
    made = await make({"session": asked, "expires_after": {"anchor": "created_at", "seconds": 7200}}, store)

    shown = made.json()
    assert shown["expires_at"] == NOW + 7200
    assert (shown["session"]["model"], shown["session"]["output_modalities"]) == ("echo", ["text"])
    assert shown["session"]["instructions"] == "Be brief."
    secret = store.find(shown["value"])
    assert secret is not None
    begun = merge(TranscriptionSession(id="sess_1"), secret.session, model="echo")
    assert isinstance(begun, RealtimeSession), "a configuration without a type is one of a conversation"
    assert begun.instructions == "Be brief."


async def test_a_transcription_session() -> None:
    asked = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}
    session = (await make({"session": asked})).json()["session"]

    assert (session["type"], session["object"]) == ("transcription", "realtime.transcription_session")
    assert session["id"] == "sess_new"
    assert session["audio"]["input"]["turn_detection"] is None


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"{", "invalid_json", None),
        (b"\xff", "invalid_json", None),
        pytest.param(b'{"session":{"a":' + b"[" * 10_000, "invalid_json", None, id="deep"),
        ([], "invalid_value", None),
        ({"seconds": 5}, "unknown_parameter", "seconds"),
        ({"expires_after": {"seconds": 9}}, "invalid_value", "expires_after.seconds"),
        ({"expires_after": {"seconds": 7201}}, "invalid_value", "expires_after.seconds"),
        ({"expires_after": {"seconds": "60"}}, "invalid_value", "expires_after.seconds"),
        ({"expires_after": {"anchor": "used_at"}}, "invalid_value", "expires_after.anchor"),
        ({"session": 7}, "invalid_value", "session"),
        ({"session": {"type": "bogus"}}, "invalid_value", "session.type"),
        ({"session": {"voice": "alloy"}}, "unknown_parameter", "session.voice"),
        (
            {"session": {"audio": {"input": {"turn_detection": {"type": "x"}}}}},
            "invalid_value",
            "session.audio.input.turn_detection.type",
        ),
    ],
)
async def test_a_bad_request_is_an_error_of_the_api(body: Any, code: str, param: str | None) -> None:
    made = await make(body)
    error = made.json()["error"]

    assert made.status_code == 400
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param)


async def test_a_huge_request_is_not_read() -> None:
    made = await make(b" " * (secrets.BODY + 1))
    assert (made.status_code, made.json()["error"]["code"]) == (413, "request_too_large")


async def test_a_full_store_says_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "MOST", 1)
    store = a_store(Clock())
    assert (await make({}, store)).status_code == 200
    refused = await make({}, store)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "client_secret_limit_reached")
    assert refused.headers["retry-after"]


# ── what they open ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_secret_opens_everything_but_the_making_of_secrets() -> None:
    clock = Clock()
    store = a_store(clock)
    value = store.make(600, {}).value
    async with client(store, value) as asking:
        assert (await asking.get("/v1/models")).status_code == 200
        assert (await asking.post(PATH)).status_code == 401
        clock.now += 600
        assert (await asking.get("/v1/models")).status_code == 401
    async with client(store, None) as asking:
        assert (await asking.post(PATH)).status_code == 401


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("authorization", "Bearer {}"),
        ("api-key", "{}"),
        ("sec-websocket-protocol", "realtime, openai-insecure-api-key.{}, openai-agents-sdk.1"),
    ],
)
@pytest.mark.parametrize("server", [("127.0.0.1", 8000), ("/run/voxd.sock", None)])
def test_the_endpoint_finds_the_secret_wherever_a_key_may_stand(name: str, value: str, server: Any) -> None:
    store = a_store(Clock())
    secret = store.make(600, {"instructions": "Be brief."})
    scope = {"server": server, "headers": [(name.encode(), value.format(secret.value).encode())]}

    assert secret_of(scope, store) == secret
    assert secret_of({"server": server, "headers": []}, store) is None
