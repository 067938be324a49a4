"""Every part of every request with anything in its place, against a real voxd: always an answer that says what is
wrong, never a 500."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import httpx
import pytest
from openai.types.realtime.realtime_session_create_request import RealtimeSessionCreateRequest
from openai.types.realtime.realtime_transcription_session_create_request import (
    RealtimeTranscriptionSessionCreateRequest,
)

from tests.support import published
from tests.support.calls import form, http
from tests.support.daemon import Daemon, voxd_process
from tests.support.odd_values import SEED, some

SESSIONS = [
    *published.examples(RealtimeSessionCreateRequest),
    *published.examples(RealtimeTranscriptionSessionCreateRequest),
]
BODIES = [{"expires_after": {"anchor": "created_at", "seconds": 60}, "session": session} for session in SESSIONS]
OFFER = (Path(__file__).parents[2] / "data" / "chromium_offer.sdp").read_text()
RAW = (b"null", b"[]", b"1", b'"x"', b"{", b"\xff\xfe", b"{}{}", b"[" * 100_000, b'{"a":NaN}', b"session=1", b"\0" * 99)
WORDS: tuple[bytes, ...] = (
    *(b"", b"x", b"null", b"true", b"0", b"-1", b"1e400", b"nan", b"[]", b"{}", b"{" * 1000, b"\0\x1b[2J", b"\xff\xfe"),
    *("😀".encode() * 40, b"y" * 70_000, b"auto", b"english", b"json", b"diarized_json", b"word", b"0.5", b"1,5"),
    *(b'{"type":"server_vad"}', b'{"type":[]}', "٣".encode(), b"a;b", b"%00", b"../..", b"'\"<>"),
)
FIELDS = (
    *("model", "response_format", "stream", "language", "languages[]", "languages", "prompt", "keywords[]", "sdp"),
    *("temperature", "include[]", "file", "tomorrow", "chunking_strategy", "chunking_strategy[type]", "session"),
    *("chunking_strategy[threshold]", "chunking_strategy[]", "[]", "[x]", "a[b][c]", "😀", ""),
    *("timestamp_granularities[]", "known_speaker_names[]", "known_speaker_references[]"),
)
CHARSETS = (
    "utf-7",
    "idna",
    "punycode",
    "undefined",
    "unicode_escape",
    "hex",
    "utf-16",
    "rot13",
    "mbcs",
    "x" * 100,
    "é",
)
QUERIES = ("model", "intent", "dialect", "voxd_ext", "voxd_resume", "voxd_last_seq", "voxd_session", "call_id", "x", "")
HEADERS = ("Sec-WebSocket-Protocol", "Authorization", "api-key", "Origin", "OpenAI-Beta", "User-Agent", "Cookie", "X")
LINE = (b"", b"x", b"realtime", b"realtime, realtime", b"openai-insecure-api-key.", b"openai-insecure-api-key.\xff")
LINE += (
    b"realtime,,  ,",
    b"\xc3\xa9",
    b"a" * 4000,
    b"Bearer",
    b"Bearer  x",
    b"null",
    b"http://[",
    b"realtime;q=1",
    b'"',
)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    env = {"VOXD_WEBRTC_ENABLED": "true", "VOXD_SERVER_MAX_SESSIONS": "300"}
    with voxd_process("--transcribe", "echo", "--respond", "echo", env=env) as running:
        yield running
        log = running.log.read_text()
    wrong = [line for line in log.splitlines() if "Traceback" in line or "internal error" in line or "Error:" in line]
    assert not wrong, log[-5000:]


def check(answer: httpx.Response, *names: str) -> None:
    """Checks that it went well, or that the error says what was wrong, and where if only `names` could be."""
    assert answer.status_code < 500, answer.text[:500]
    if answer.status_code < 400:
        return
    error = answer.json()["error"]
    assert error["message"]
    assert error["code"]
    assert len(answer.content) < 4096
    assert not names or error["param"] is None or error["param"].startswith(names), error


async def secrets(daemon: Daemon, count: int, seed: int) -> None:
    async with http(daemon) as client:
        for body in some(count, seed, BODIES):
            check(
                await client.post("/v1/realtime/client_secrets", content=json.dumps(body)), "session", "expires_after"
            )
        for raw in RAW:
            answer = await client.post("/v1/realtime/client_secrets", content=raw)
            assert answer.status_code in (400, 413)
            check(answer)


def parts(*named: tuple[bytes, bytes, bytes]) -> bytes:
    """A form of (name, more of its header, value)."""
    lines = (b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % each for each in named)
    return b"".join(lines) + b"--b--\r\n"


async def files(daemon: Daemon, count: int, seed: int) -> None:
    chance, sound = random.Random(seed), (b"file", b'; filename="a.wav"', b"RIFF")
    async with http(daemon) as client:

        async def post(
            *named: tuple[bytes, bytes, bytes], kind: str = "multipart/form-data; boundary=b"
        ) -> httpx.Response:
            headers = [(b"Content-Type", kind.encode())]
            answer = await client.post("/v1/audio/transcriptions", content=parts(*named), headers=headers)
            assert answer.status_code == 400
            check(answer)
            return answer

        for _ in range(count):
            name, value, more = chance.choice(FIELDS).encode(), chance.choice(WORDS), b""
            if chance.random() < 0.1:
                more = b'; filename="x"'
            answer = await post(sound, *[(name, more, value)] * chance.choice((1, 1, 1, 2, 3)))
            param = answer.json()["error"]["param"]
            assert param == "file" or name.decode().startswith(param.partition("[")[0].partition(".")[0])
        for charset in CHARSETS:
            for name in (b"language", b"\xff\xfe", b"x"):
                await post(
                    (name, b"", b"\xff\xfee+AG-n\\x"), sound, kind=f"multipart/form-data; boundary=b; charset={charset}"
                )


async def calls(daemon: Daemon, count: int, seed: int) -> None:
    chance, lines = random.Random(seed), OFFER.split("\r\n")
    async with http(daemon) as client:

        async def post(**request: Any) -> None:
            answer = await client.post("/v1/realtime/calls", **request)
            if answer.status_code == 201:
                assert (await client.delete(answer.headers["Location"])).status_code == 200
            check(answer, "sdp", "session", "voxd_session")

        for session in some(count, seed, SESSIONS):
            await post(files=form(OFFER, session))
            odd = [*lines]
            at = chance.randrange(len(odd))
            odd[at] = odd[at][: chance.randrange(3)] + chance.choice(WORDS).decode("latin-1")
            await post(content="\r\n".join(odd).encode(), headers={"Content-Type": "application/sdp"})
            query = f"{chance.choice(QUERIES)}={quote_from_bytes(chance.choice(WORDS)[:2000])}"
            await post(content=OFFER, headers={"Content-Type": "application/sdp"}, params=query)
        for raw in RAW:
            await post(files={"sdp": (None, OFFER), "session": (None, raw)})
        for charset in CHARSETS:
            kind = f"multipart/form-data; boundary=b; charset={charset}".encode()
            await post(content=parts((b"sdp", b"", b"\xff\xfe")), headers=[(b"Content-Type", kind)])


async def upgrade(daemon: Daemon, query: bytes, header: tuple[str, bytes]) -> tuple[int, bytes]:
    """Status and body of the answer; of 101 the first message."""
    reader, writer = await asyncio.open_unix_connection(str(daemon.socket))
    writer.write(b"GET /v1/realtime?%s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n" % query)
    writer.write(b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: YWFhYWFhYWFhYWFhYWFhYQ==\r\n")
    writer.write(b"%s: %s\r\n\r\n" % (header[0].encode(), header[1]))
    async with asyncio.timeout(60):
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split()[1])
        body = await reader.readuntil(b'"session.created"') if status == 101 else await reader.read()
    writer.transport.abort()
    return status, body


async def upgrades(daemon: Daemon, count: int, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(count):
        pairs = [(chance.choice(QUERIES), chance.choice(WORDS)[:3000]) for _ in range(chance.choice((1, 2)))]
        query = "&".join(f"{name}={quote_from_bytes(value)}" for name, value in pairs).encode()
        status, body = await upgrade(daemon, query, (chance.choice(HEADERS), chance.choice(LINE)))
        assert status in (101, 400, 403, 404), (status, query, body)
        assert status == 101 or json.loads(body)["error"]["message"]


async def test_client_secrets(daemon: Daemon) -> None:
    await secrets(daemon, 200, SEED)


async def test_files(daemon: Daemon) -> None:
    await files(daemon, 150, SEED)


async def test_calls(daemon: Daemon) -> None:
    await calls(daemon, 12, SEED)


async def test_upgrades(daemon: Daemon) -> None:
    await upgrades(daemon, 60, SEED)


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_many_more_of_each(daemon: Daemon) -> None:
    await secrets(daemon, 5_000, SEED + 1)
    await files(daemon, 5_000, SEED + 1)
    await calls(daemon, 500, SEED + 1)
    await upgrades(daemon, 3_000, SEED + 1)
