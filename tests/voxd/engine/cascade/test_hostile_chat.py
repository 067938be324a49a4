"""No answer of a chat server ends the engine process, takes its memory or keeps other answers waiting."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator

import pytest
from websockets.asyncio.client import unix_connect

from tests.support.cascading import Talk, talks, voxd_and
from tests.support.chat_server import STREAM, Asked, ChatServer, Script, delta, event, raw, says
from tests.support.daemon import Daemon
from tests.support.hostile_chat import OK, Hostile, compressed
from tests.support.peers import peak_kib
from voxd.engine.cascade import chat
from voxd.engine.cascade.foreign import COUNT, DEPTH, SIZE, count, decode
from voxd.messages import Failed, Settled

CLIENTS = 16
KEPT_KIB = CLIENTS * 24 << 10  # what is read of each answer, three times over: as bytes, as a line, as values
DONE_S = 60.0


@pytest.fixture
def talk() -> Iterator[Talk]:
    with talks() as make:
        yield make


# ── JSON ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("data", "fits"),
    [
        (b"[" * DEPTH + b"]" * DEPTH, True),
        (b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1), False),
        (b'{"a":' * (DEPTH + 1) + b"1" + b"}" * (DEPTH + 1), False),
        (b"[" * 1_000_000, False),
        (b'"' + b"[" * 1000 + b'"', True),
        (b'"\\"' + b"[" * 1000 + b'"', True),
        (b"[" + b"[]," * 1000 + b"[]]", True),
        (b'["' + b'\\"[' * 1_000_000, False),
        (b"9" * 5000, False),
        (b"1e999", False),
        (b'"\xff"', False),
        (b'"\\ud800"', False),
        (b" " * (SIZE + 1), False),
    ],
    ids=lambda value: repr(value[:12]) if isinstance(value, bytes) else None,
)
def test_json_is_read_within_bounds(data: bytes, fits: bool) -> None:
    if fits:
        decode(data, object)
    else:
        with pytest.raises(ValueError, match=r".+"):
            decode(data, object)


def test_counts_are_clamped() -> None:
    assert [count(n) for n in (None, -1, 0, 7, COUNT, 1 << 64, -(1 << 70))] == [0, 0, 0, 7, COUNT, COUNT, 0]


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [1 << 64, 1 << 63, 10**29, -1, -(1 << 64)])
def test_counts_out_of_range_cost_no_answer(talk: Talk, number: int) -> None:
    usage = dict.fromkeys(("prompt_tokens", "completion_tokens"), number)
    _, talker = talk(says("Yes.", usage={**usage, "prompt_tokens_details": {"cached_tokens": number}}))
    ending = talker.answer()
    assert isinstance(ending, Settled)
    counts = (ending.input_tokens, ending.cached_tokens, ending.output_tokens)
    assert all(0 <= each <= COUNT for each in counts)
    assert (ending.status, ending.text) == ("completed", "Yes.")


def flooding(head: bytes, piece: bytes) -> Script:
    """Sends more and more of it until the client hangs up."""

    async def script(asked: Asked) -> None:
        await asked.send(head)
        while True:
            await asked.send(piece * (65536 // len(piece)))

    return script


REFUSAL = b"HTTP/1.1 500 No\r\nConnection: close\r\n\r\n"
PACKED = OK + b"Content-Encoding: gzip\r\n\r\n"
ENDLESS = {
    "a line": flooding(STREAM, b"x"),
    "lines of one event": flooding(STREAM, b"data: x\n"),
    "empty lines of one event": flooding(STREAM, b"data:\n"),
    "comments": flooding(STREAM, b": ping\n\n"),
    "empty lines": flooding(STREAM, b"\n"),
    "events without text": flooding(STREAM, event(choices=[])),
    "a head": flooding(b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "chunks of a byte": flooding(
        STREAM.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"), b"1\r\n\n\r\n"
    ),
    "a bomb": raw(PACKED + compressed(64 << 20)),
    "a text": raw(STREAM + delta("a" * (9 << 20))),
    "depth": raw(STREAM + b"data: " + b"[" * 500_000 + b"\n\n"),
    "the depth of an error": raw(STREAM + b'data: {"error": ' + b"[" * 900 + b"]" * 900 + b"}\n\n"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_answer_out_of_bounds_is_given_up_and_says_so(talk: Talk, name: str) -> None:
    server, talker = talk(ENDLESS[name], timeout_s=60)
    failed = talker.answer()
    assert isinstance(failed, Failed)
    assert failed.code in ("chat_broken", "chat_unreachable")
    server.script = says("Yes.")
    ending = talker.answer(ref=2)
    assert isinstance(ending, Settled), "the next answer is nobody's loss"


@pytest.mark.parametrize(
    "body", [b"x", b'{"error": {"message": "no"}}', b"[" * 60_000, b'{"error":' * 1000, bytes(99)], ids=range(5)
)
@pytest.mark.parametrize(
    "head", [REFUSAL, REFUSAL.replace(b"500", b"400"), REFUSAL.replace(b"500", b"404")], ids=[500, 400, 404]
)
def test_an_endless_refusal_is_read_no_further_than_it_says_something(talk: Talk, head: bytes, body: bytes) -> None:
    _, talker = talk(flooding(head, body))
    failed = talker.answer()
    assert isinstance(failed, Failed)
    assert len(failed.message) < 1000


def test_an_answer_that_drips_is_cut_by_the_clock(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def drips(asked: Asked) -> None:
        await asked.send(STREAM + delta("Well"))
        while True:
            await asked.send(event(choices=[]))
            await asked.pause(0.01)

    monkeypatch.setattr(chat, "ANSWER_S", 0.5)
    _, talker = talk(drips)
    ending = talker.answer()
    assert isinstance(ending, Settled)
    assert (ending.status, ending.text) == ("incomplete", "Well")


# ── the page of models ──────────────────────────────────────────────────────────────────────────────────────────────

LISTS = {
    "depth": raw(b"HTTP/1.1 200 OK\r\n\r\n" + b'{"data":' + b"[" * 100_000),
    "size": flooding(b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    "a refusal's size": flooding(REFUSAL, b"x"),
    "a refusal's depth": raw(REFUSAL + b"[" * 100_000),
    "range": raw(b'HTTP/1.1 200 OK\r\n\r\n{"data": [{"id": ' + b"9" * 5000 + b"}]}"),
    "encoding": raw(b'HTTP/1.1 200 OK\r\n\r\n{"data": [{"id": "\xff"}]}'),
    "a bomb": raw(PACKED + compressed(64 << 20)),
    "type": raw(b'HTTP/1.1 200 OK\r\n\r\n{"data": {"id": "x"}}'),
    "another place": raw(b"HTTP/1.1 302 No\r\nLocation: http://169.254.169.254/\r\n\r\n"),
}


@pytest.mark.parametrize("name", LISTS)
def test_whatever_the_page_of_models_says_the_engine_starts(talk: Talk, name: str) -> None:
    _, talker = talk(says("Yes."), LISTS[name], model="tiny")
    assert "voxd starts all the same" in talker.notes[0]
    assert isinstance(talker.answer(), Settled)


def test_a_name_that_acts_on_a_terminal_or_fills_it_is_no_model(talk: Talk) -> None:
    names = ("\x1b]52;c;eA==\x07", "a\nERROR forged", "x" * 5000, "\u202egpt", "", "tiny")
    _, talker = talk(says("Yes."), names)
    assert "cascade: tiny at" in talker.notes[0]
    assert isinstance(talker.answer(), Settled)


# ── thousands of them ───────────────────────────────────────────────────────────────────────────────────────────────


async def one_answer(daemon: Daemon, hand: Iterator[int]) -> None:
    """A client that asks beside a conversation, as long as there are numbers in `hand`."""
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Well?"}]}
    ask = {"type": "response.create", "response": {"conversation": "none", "input": [item]}}
    async with unix_connect(str(daemon.socket), "ws://localhost/v1/realtime", compression=None) as link:
        for _ in hand:
            await link.send(json.dumps(ask))
            async with asyncio.timeout(DONE_S):
                while (told := json.loads(await link.recv()))["type"] != "response.done":
                    assert told["type"] != "error", told
            assert told["response"]["status"] in ("completed", "failed", "incomplete")


async def ask_many(daemon: Daemon, answers: int) -> None:
    hand = iter(range(answers))
    async with asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(one_answer(daemon, hand))


def survive(seed: int, answers: int) -> None:
    hostile = Hostile(seed)
    server = ChatServer(hostile.chat, hostile.models)
    with server.running(), voxd_and(server, "echo", model="tiny", timeout_s=1) as daemon:
        pid = daemon.status()["engine_pid"]
        assert isinstance(pid, int)
        before = peak_kib(pid)
        asyncio.run(ask_many(daemon, answers))
        assert daemon.status()["engine_pid"] == pid, f"the engine process has ended:\n{daemon.log.read_text()}"
        assert peak_kib(pid) - before < KEPT_KIB
        log = daemon.log.read_text()
        assert "Traceback" not in log, log
    assert len(hostile.kinds) >= 6, hostile.kinds
    assert sum(hostile.kinds.values()) >= answers


def test_hundreds_of_hostile_answers_cost_one_turn_each() -> None:
    survive(seed=1, answers=200)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [2, 3])
def test_ten_thousand_hostile_answers_never_end_the_engine_process(seed: int) -> None:
    survive(seed, answers=5_000)


def test_many_starts_against_hostile_pages_of_models(talk: Talk) -> None:
    _, talker = talk(says("Yes."), Hostile(4).models, model="tiny")
    offers = talker.engine._loaded.models
    for _ in range(60):
        with contextlib.suppress(chat.ChatError):
            assert all(name.isprintable() for name in offers())
    assert isinstance(talker.answer(), Settled)
