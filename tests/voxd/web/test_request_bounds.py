"""Bodies of HTTP requests have a deadline, a bound for one and for all, and a limit for the sound in a file."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import soundfile
from starlette.applications import Starlette
from starlette.routing import Route

from shared.session_config import RealtimeSession
from shared.settings import WebRtc
from tests.support.connections import ClosedDesk
from voxd.gateway import budget
from voxd.web import client_secrets as secrets, gate as http, transcriptions as rest
from voxd.web.callers import caller_of
from voxd.web.client_secrets import Secrets, client_secrets
from voxd.web.gate import Gate, Guarded
from voxd.web.pages import ERROR_PAGES
from voxd.webrtc.calls import Calls

FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
Chunks = Callable[[], Iterator[bytes | None]]  # None: nothing more comes, ever
ROUTES = [
    ("/v1/realtime/client_secrets", "application/json"),
    ("/v1/audio/transcriptions", "multipart/form-data; boundary=x"),
    ("/v1/realtime/calls", "multipart/form-data; boundary=x"),
]


def guarded() -> Guarded:
    desk = ClosedDesk()
    routes = [
        client_secrets(Secrets(lambda: 1.0, lambda: 1.0), lambda: RealtimeSession(id="s", model="m"), lambda: "m"),
        Route("/v1/audio/transcriptions", rest.Transcriptions(desk), methods=["POST"]),
        *Calls(WebRtc(enabled=True), desk, lambda asked: caller_of(asked, {})).routes(),
    ]
    return Guarded(Starlette(routes=routes, exception_handlers=ERROR_PAGES), Gate(None, frozenset(), frozenset()))


async def ask(app: Guarded, path: str, kind: str, chunks: Iterator[bytes | None]) -> tuple[int, str, dict[str, str]]:
    """Status, error code and headers of the answer."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "server": ("/socket", None),
        "client": None,
        "headers": [(b"content-type", kind.encode())],
    }
    told: list[Any] = []

    async def receive() -> dict[str, Any]:
        chunk = next(chunks, b"")
        if chunk is None:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        return {"type": "http.request", "body": chunk, "more_body": chunk != b""}

    async def send(message: Any) -> None:
        told.append(message)

    async with asyncio.timeout(60):
        await app(scope, receive, send)
    body = b"".join(each.get("body", b"") for each in told[1:])
    code = str(msgspec.json.decode(body).get("error", {}).get("code", ""))
    headers = {name.decode(): value.decode() for name, value in told[0]["headers"]}
    return told[0]["status"], code, headers


@pytest.mark.parametrize(("path", "kind"), ROUTES)
async def test_a_request_that_does_not_end_is_answered_and_let_go(
    monkeypatch: pytest.MonkeyPatch, path: str, kind: str
) -> None:
    monkeypatch.setattr(http, "REQUEST_S", 0.1)
    app = guarded()
    status, code, headers = await ask(app, path, kind, iter([FORM, b"a", None]))
    assert (status, code, headers["connection"]) == (408, "request_timeout", "close")
    assert app._bodies.now == 0


@pytest.mark.parametrize(("path", "kind"), ROUTES)
async def test_all_bodies_together_have_a_bound_and_it_is_given_back(
    monkeypatch: pytest.MonkeyPatch, path: str, kind: str
) -> None:
    app = guarded()
    app._bodies.limit = 50_000
    taken = asyncio.Event()

    def chunks() -> Iterator[bytes | None]:
        yield from (FORM, bytes(40_000))
        taken.set()
        yield None

    waiting = asyncio.create_task(ask(app, path, kind, chunks()))
    await asyncio.wait_for(taken.wait(), 60)
    status, code, headers = await ask(app, path, kind, iter([FORM, bytes(20_000), None]))
    assert (status, code, headers["retry-after"]) == (503, "server_overloaded", "2")
    waiting.cancel()
    await asyncio.wait({waiting})
    assert app._bodies.now == 0


def silence(hours: float) -> bytes:
    """A FLAC of digital silence: some 30 KiB an hour."""
    written = io.BytesIO()
    with soundfile.SoundFile(written, "w", 8000, 1, format="FLAC") as file:
        for _ in range(int(hours * 60)):
            file.write(np.zeros(8000 * 60, np.int16))
    return written.getvalue()


async def test_a_small_file_with_hours_of_silence_is_refused_with_the_limit() -> None:
    file = silence(4.02)
    assert len(file) < 1 << 20
    status, code, _ = await ask(guarded(), *ROUTES[1], iter([FORM, file, b"\r\n--x--\r\n"]))
    assert (status, code) == (413, "file_too_long")


def test_a_header_that_lies_does_not_help() -> None:
    """The limit is found while decoding, when no more than the limit was decoded."""
    file = bytearray(silence(0.02))
    file[21:26] = bytes([file[21] & 0xF0, 0, 0, 0, 0])  # STREAMINFO: the number of samples is unknown
    clip = rest.AudioFile(io.BytesIO(bytes(file)), limit=16_000 * 30)
    with pytest.raises(rest.TooLong):
        list(iter(clip.read, b""))
    assert clip.samples < 16_000 * 31
    clip.close()


def test_secrets_hold_no_more_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "HELD", 1000)
    now = [0.0]
    store = Secrets(lambda: now[0], lambda: 0.0)
    first = store.make(60, {"instructions": "x" * 600})
    with pytest.raises(secrets.TooManySecrets):
        store.make(60, {"instructions": "x" * 600})
    assert first.session == {"instructions": "x" * 600}
    now[0] = 61
    store.make(60, {"instructions": "x" * 600})


@pytest.mark.parametrize("piece", ["[],", "0,", '{"a":0},', '"",'])
async def test_a_small_body_of_many_values_is_not_worked_at(piece: str) -> None:
    body = '{"session":{"tools":[' + piece * (secrets.BODY // len(piece) - 20) + "0]}}"
    status, code, _ = await ask(guarded(), *ROUTES[0], iter([body.encode()]))
    assert (status, code) == (413, "request_too_large")


def test_a_budget_is_given_back() -> None:
    kept = budget.Kept(10)
    with budget.Held(kept) as one:
        assert one.grew(10)
        assert not one.grew(1)
        assert one.grew(-5)
    assert kept.now == 0
