"""The gate in front of everything."""

from __future__ import annotations

from typing import Any

import pytest

from voxd.http import Gate

TOKEN = "s3cret-token"
GATE = Gate(TOKEN.encode(), frozenset({"gpu.example"}), frozenset({"https://app.example"}))
AUTH = {"authorization": f"Bearer {TOKEN}"}


def scope(path: str = "/status", unix: bool = False, **headers: str) -> dict[str, Any]:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "path": path, "server": ("/x", None) if unix else ("127.0.0.1", 8000), "headers": raw}


def verdict(**fields: Any) -> int:
    refusal = GATE.refuse(scope(**fields))
    return 200 if refusal is None else refusal[0]


def test_a_unix_socket_is_its_own_right() -> None:
    assert verdict(unix=True) == 200


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
