"""Nothing that a client sends blocks the gateway's loop: the largest legal and illegal inputs of every kind, in
steps."""

from __future__ import annotations

import base64
import gc
import itertools
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import h11
import pytest
from starlette.datastructures import Headers

from shared import events
from shared.session_config import Extensions, RealtimeSession
from tests.support import connections
from tests.support.still import LIMIT_S, Steps, quickest
from tests.voxd.gateway.test_connection import Host, Nobody
from voxd import messages as m
from voxd.gateway.connection import Connection
from voxd.gateway.dialect import Dialect
from voxd.session import intake
from voxd.session.terms import Profile
from voxd.web import form, server

MIB = 1 << 20
MOST = server.MESSAGE_LIMIT
LONG = base64.b64encode(bytes(14 * MIB)).decode()
EMOJI = "\U0001f600"


def connect(**sound: Any) -> Connection:
    """A conversation whose client may resume; audio comes as the API's own, 24 kHz, unless `sound` says otherwise."""
    host = Host()
    host.ready = m.Ready("echo", "echo", False)
    connection = connections.connection(
        host,
        profile=lambda ready: Profile("echo", "echo"),
        make_config=lambda name: RealtimeSession(id=name, model="echo", voxd=Extensions(resume=True, resume_token="t")),
        dialect=Dialect({"dialect": "ga"}, 0),
        observer=Nobody(),
    )
    if sound:
        connection.receive_text(json.dumps({"type": "session.update", "session": {"audio": {"input": sound}}}))
    return connection


def event(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields})


def item(*content: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": list(content)}


def text(words: str) -> dict[str, Any]:
    return {"type": "input_text", "text": words}


def filled(before: str, piece: str, after: str, size: int) -> str:
    return before + piece * ((size - len(before) - len(after)) // len(piece)) + piece.rstrip(",") + after


TOOLS = '{"type":"session.update","session":{"tools":[', "]}}"
NESTED = [("[],", "lists"), ('{"a":0},', "objects"), ("0,", "numbers"), ('"",', "texts"), ('"\\"",', "quotes")]
SIZES = [intake.PLAIN - 1, intake.STRUCTURE - 1, intake.STRUCTURE + 1, 20 * MIB]
MESSAGES: dict[str, Callable[[], str]] = {
    "append, 14 MiB": lambda: event("input_audio_buffer.append", audio=LONG),
    "append, 20 MiB": lambda: event("input_audio_buffer.append", audio="A" * (20 * MIB)),
    "append, not base64": lambda: event("input_audio_buffer.append", audio=LONG[:-9] + "\u00e9" + LONG[-8:]),
    "append, far": lambda: event("input_audio_buffer.append", audio="AAAA", voxd_offset=299 * 24_000),
    "append, too far": lambda: event("input_audio_buffer.append", audio="AAAA", voxd_offset=events.FAR),
    "commit": lambda: event("input_audio_buffer.commit"),
    "clear": lambda: event("input_audio_buffer.clear"),
    "item, text": lambda: event("conversation.item.create", item=item({"type": "input_text", "text": "x" * 200_000})),
    "item, emoji": lambda: event(
        "conversation.item.create", item=item({"type": "input_text", "text": EMOJI * 200_000})
    ),
    "item, too much": lambda: event(
        "conversation.item.create", item=item({"type": "input_text", "text": "x" * 20 * MIB})
    ),
    "item, contents": lambda: event(
        "conversation.item.create", item=item(*[{"type": "input_text", "text": ""}] * 7000)
    ),
    "item, audio": lambda: event("conversation.item.create", item=item({"type": "input_audio", "audio": LONG})),
    "response, audio": lambda: event(
        "response.create", response={"input": [item({"type": "input_audio", "audio": LONG[: 8 * MIB]})]}
    ),
    "response, as many items as may be": lambda: event("response.create", response={"input": [item()] * 500}),
    "response, items": lambda: event("response.create", response={"input": [item()] * 3000}),
    "response, references": lambda: event(
        "response.create", response={"input": [{"type": "item_reference", "id": "x"}] * 6000}
    ),
    "instructions": lambda: event("session.update", session={"instructions": EMOJI * 65_536}),
    "ping, huge": lambda: event("voxd.ping", ping_id="x" * 20 * MIB),
    "ping": lambda: event("voxd.ping", ping_id="x" * 512),
    "nothing known": lambda: event("x" * 20 * MIB),
    "no json": lambda: "{" * 20 * MIB,
    "deep": lambda: '{"type":"voxd.ping","t0":' + "[" * 20 * MIB,
    "blanks": lambda: " " * MOST,
    "quotes": lambda: '"' * MOST,
    "backslashes": lambda: '{"type":"' + "\\" * 20 * MIB + '"}',
    "escaped quotes": lambda: '{"type":"' + '\\"' * 10 * MIB + '"}',
    "long strings": lambda: "[" + ('"' + "x" * 5000 + '",') * 4000 + "0]",
    "ids": lambda: event("conversation.item.delete", item_id="x" * MIB),
    **{
        f"update, {size >> 10} KiB of {name}": lambda piece=piece, size=size: filled(TOOLS[0], piece, TOOLS[1], size)  # type: ignore[misc]
        for (piece, name), size in itertools.product(NESTED, SIZES)
    },
}


async def through(connection: Connection, message: str, steps: Steps) -> None:
    """Handles a message as the gateway does, and writes everything that came of it."""
    steps.run(connection.work_on(message))
    while connection._outbox.waiting:
        steps.run(_once(lambda: connection.written(connection._outbox.waiting[0])))
        steps.run(_once(lambda: _take(connection)))


def _take(connection: Connection) -> None:
    connection._outbox.pop()
    connection._refill()


def _once(work: Callable[[], None]) -> Iterator[None]:
    work()
    yield from ()


@pytest.mark.parametrize("name", MESSAGES)
async def test_no_message_holds_the_loop(name: str) -> None:
    message, runs = MESSAGES[name](), list[Steps]()
    gc.collect()
    for _ in range(3):
        connection, steps = connect(), Steps()
        await through(connection, message, steps)
        connection.close("over")
        assert connection._outbox.closing is None
        runs.append(steps)
        if quickest(runs) < LIMIT_S:
            return
    raise AssertionError(f"{quickest(runs) * 1000:.1f} ms in one of {runs[0].count} steps")


@pytest.mark.parametrize(
    "form", [{"type": "audio/pcmu"}, {"type": "audio/pcm", "rate": 8000}, {"type": "audio/pcm", "rate": 48_000}]
)
async def test_no_format_holds_it(form: dict[str, Any]) -> None:
    message, runs = event("input_audio_buffer.append", audio=LONG[: 3 * MIB]), list[Steps]()
    for _ in range(3):
        connection, steps = connect(format=form), Steps()
        await through(connection, message, steps)
        connection.close("over")
        runs.append(steps)
    assert runs[0].count > 20
    assert quickest(runs) < LIMIT_S


FORM = Headers({"content-type": "multipart/form-data; boundary=b"})
TINY = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
HEADED = b"--b\r\n" + b"a: b\r\n" * 7 + TINY[5:]


@pytest.mark.parametrize(
    "body", [TINY * 990, HEADED * 500, TINY + b"\r\n--" * 10_000], ids=["fields", "headers", "almost ends"]
)
def test_no_form_holds_it(body: bytes) -> None:
    """As much of one as the server hands over in one go."""

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield body[: 64 << 10]

    runs = list[Steps]()
    for _ in range(3):
        steps = Steps()
        steps.run(form.read(FORM, chunks(), size=MIB).__await__())
        runs.append(steps)
    assert quickest(runs) < LIMIT_S


@pytest.mark.parametrize("line", [b"a:b\r\n", b"a:\r\n", b" b\r\n"], ids=["short", "empty", "folded"])
def test_no_head_of_a_request_holds_it(line: bytes) -> None:
    """Of the shortest lines; h11 parses them all when the last one is there."""
    head = b"GET / HTTP/1.1\r\nHost: x\r\n"
    head += line * ((server.HEAD - len(head)) // len(line)) + b"\r\n"
    runs = list[Steps]()

    def parsed() -> Iterator[None]:
        server_end = h11.Connection(h11.SERVER, server.HEAD)
        for begin in range(0, len(head), server.READ):
            server_end.receive_data(head[begin : begin + server.READ])
            found = server_end.next_event()
            yield
        assert isinstance(found, h11.Request)

    for _ in range(3):
        steps = Steps()
        steps.run(parsed())
        runs.append(steps)
    assert quickest(runs) < LIMIT_S


async def test_a_full_session_is_no_slower() -> None:
    """Small events cost no more in a conversation at its bound or with a session object at its own."""
    connection, runs = connect(), list[Steps]()
    for _ in range(100):
        connection.receive_text(MESSAGES["item, text"]())
        while connection._outbox.waiting:
            _take(connection)
    connection.receive_text(filled(TOOLS[0], '{"a":0},', TOOLS[1], 60_000))
    for message in (event("session.update", session={}), event("response.create"), event("response.cancel")) * 3:
        steps = Steps()
        await through(connection, message, steps)
        runs.append(steps)
    connection.close("over")
    assert max(quickest(runs[at::3]) for at in range(3)) < LIMIT_S
