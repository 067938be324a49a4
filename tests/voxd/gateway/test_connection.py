"""A connection without a socket: what all sessions keep together is bounded."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import pytest

from shared import events
from shared.session_config import Extensions, RealtimeSession, TranscriptionSession
from tests.support.connections import connection
from voxd import messages as m
from voxd.gateway.budget import Budget, TotalBytes
from voxd.gateway.connection import Connection
from voxd.gateway.dialect import Dialect
from voxd.gateway.outgoing import Closed
from voxd.session.terms import Profile
from voxd.telemetry.prometheus import Exposition, Live
from voxd.telemetry.turn_meter import Targets, TurnReport

SECOND = bytes(48_000)  # at the API's own 24 kHz


class Host:
    """An engine process that hears nothing."""

    ready = m.Ready("echo", None, False)

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def new_stream(self) -> int:
        return next(self._numbers)

    def attach(self, stream: int, client: object) -> None:
        pass

    def send(self, commands: list[m.Command]) -> None:
        pass

    def detach(self, stream: int) -> None:
        pass


class Nobody:
    def warned(self, code: str) -> None:
        pass

    def received(self, samples: int) -> None:
        pass

    def written(self, event: events.ServerEvent, report: TurnReport | None) -> None:
        pass


@pytest.fixture
def connections() -> Iterator[list[Connection]]:
    """Three connections, which together may keep ten seconds."""
    budget = Budget(audio=TotalBytes(10 * 32_000))
    host, config = Host(), lambda name: TranscriptionSession(id=name)
    made = [connection(host, make_config=config, observer=Nobody(), budget=budget) for _ in range(3)]
    yield made
    for each in made:
        each.close("over")
    assert (budget.audio.now, budget.conversations.now) == (0, 0), "what was held is given back"


async def until_closed(connection: Connection) -> Closed:
    while True:
        try:
            connection.written(await connection.next_event())
        except Closed as closed:
            return closed


async def test_who_goes_over_what_all_may_keep_is_closed_and_the_others_are_not(connections: list[Connection]) -> None:
    first, second, third = connections
    for _ in range(4):
        first.receive_audio(SECOND)
        second.receive_audio(SECOND)
    for _ in range(3):
        third.receive_audio(SECOND)
    closed = await until_closed(third)
    assert closed.code == 1013
    assert "as much audio as it may" in str(closed)
    assert first._outbox.closing is None
    third.close(str(closed))
    second.receive_audio(SECOND)
    assert second._outbox.closing is None, "there is room again"


async def test_events_of_all_clients_have_a_bound_and_who_has_few_is_not_closed() -> None:
    """Those that wait, and those kept for a client that comes back."""
    budget = Budget(outgoing=TotalBytes(2 << 20))

    def config(name: str) -> TranscriptionSession:
        return TranscriptionSession(id=name, voxd=Extensions(resume=True, resume_token="t"))

    many, few = (connection(Host(), make_config=config, observer=Nobody(), budget=budget) for _ in range(2))
    asked = json.dumps({"type": "conversation.item.retrieve", "item_id": "x" * 500})
    told = 0
    while many._outbox.closing is None:
        many.receive_text(asked)
        if told % 20 == 0:
            few.receive_text(asked)
        told += 1
        assert told < 5000
    closed = await until_closed(many)
    assert (closed.code, few._outbox.closing) == (1013, None)
    assert "as many events as it may" in str(closed)
    for each in (many, few):
        each.close("over")
    assert budget.outgoing.now == 0


async def test_an_acknowledgement_says_when_the_newest_sound_came() -> None:
    """The time is that of the newest sound's arrival, not of the acknowledgement, so it measures the way alone."""
    times = iter(range(1000, 2000))
    resumable = TranscriptionSession(id="x", voxd=Extensions(resume=True, resume_token="t"))
    hearing = connection(Host(), make_config=lambda name: resumable, clock=lambda: next(times), observer=Nobody())
    hearing.receive_audio(SECOND)
    came_us = hearing._received_us
    hearing.receive_output(m.Heard(hearing.stream, 0, (0.0,) * 30))
    hearing.close("over")
    acks = [each.event for each in hearing._outbox.waiting if isinstance(each.event, events.Ack)]
    told = [each.data for each in hearing._outbox.waiting if isinstance(each.event, events.Ack)]
    assert len(acks) > 2, "one for each half second, and one for what was heard"
    assert next(times) > came_us + 1, "time has passed between the two"
    assert [b'"received_us":%d' % came_us in data for data in told[-2:]] == [True, True]


async def test_a_warning_of_the_engine_reaches_the_client_the_journal_and_the_metrics(
    caplog: pytest.LogCaptureFixture,
) -> None:
    exposition = Exposition(Targets(), lambda: Live("ready"))
    aware = TranscriptionSession(id="x", voxd=Extensions(provisional=True))
    slow = connection(Host(), make_config=lambda name: aware, observer=exposition)
    with caplog.at_level("WARNING", "voxd"):
        slow.receive_output(m.Warned(slow.stream, "machine_too_slow", "Too slow by half."))
        slow.receive_output(m.Warned(slow.stream, "language_doubtful", "Not English."))
    slow.close("over")

    told_client = [each.event.code for each in slow._outbox.waiting if isinstance(each.event, events.Notice)]
    assert told_client == ["machine_too_slow", "language_doubtful"]
    told = [record.__dict__["fields"] for record in caplog.records]
    assert [each["ERR_CODE"] for each in told if each["EVENT"] == "engine.warned"] == [
        "machine_too_slow",
        "language_doubtful",
    ]
    assert b"voxd_machine_too_slow_total 1.0" in exposition.page()


# ── long answers ────────────────────────────────────────────────────────────────────────────────────────────────────


def answering() -> Connection:
    """A connection in a conversation that has asked for an answer."""
    host = Host()
    host.ready = m.Ready("echo", "echo", False)
    answered = connection(
        host,
        profile=lambda ready: Profile("echo", "echo"),
        make_config=lambda name: RealtimeSession(id=name, model="echo"),
        dialect=Dialect({"dialect": "ga"}, 0),
        observer=Nobody(),
    )
    answered.receive_text('{"type":"response.create"}')
    return answered


async def until_done(connection: Connection) -> list[events.ServerEvent]:
    told: list[events.ServerEvent] = []
    while not (told and isinstance(told[-1], events.ResponseDone)):
        waiting = await connection.next_event()
        connection.written(waiting)
        assert len(waiting.data) < 1 << 20
        told.append(waiting.event)
    return told


@pytest.mark.parametrize(
    "words",
    ["word " * 9000, "é" * 190_000, "\U0001f600 " * 9000, "\n" * 100_000 + "x"],
    ids=["words", "one word", "pictures", "blanks"],
)
async def test_an_answer_of_any_length_in_one_piece_reaches_a_client_that_reads(words: str) -> None:
    connection = answering()
    connection.receive_output(m.Said(connection.stream, 1, words))
    connection.receive_output(m.Settled(connection.stream, 1, "completed", words))
    told = await until_done(connection)
    connection.close("over")
    assert "".join(each.delta for each in told if isinstance(each, events.OutputTextDelta)) == words
    done = told[-1]
    assert isinstance(done, events.ResponseDone)
    assert done.response.status == "completed"
    assert connection._outbox.closing is None


async def test_five_of_them_at_the_same_time_do_too() -> None:
    connection = answering()
    words = "word " * 4000 + "é" * 150_000
    for _ in range(4):
        connection.receive_text('{"type":"response.create","response":{"conversation":"none","input":[]}}')
    for ref in range(1, 6):
        connection.receive_output(m.Said(connection.stream, ref, words))
        connection.receive_output(m.Settled(connection.stream, ref, "completed", words))
    for _ in range(5):
        await until_done(connection)
    connection.close("over")
    assert connection._outbox.closing is None


async def test_an_answer_without_an_end_is_cut_and_says_so() -> None:
    connection = answering()
    for _ in range(6):
        connection.receive_output(m.Said(connection.stream, 1, "é" * 50_000))
    done = (await until_done(connection))[-1]
    connection.close("over")
    assert isinstance(done, events.ResponseDone)
    assert done.response.status_details == {"type": "incomplete", "reason": "max_output_tokens"}


async def test_a_client_that_does_not_read_is_closed_however_its_answer_comes() -> None:
    connection = answering()
    for _ in range(12_000):
        connection.receive_output(m.Said(connection.stream, 1, "word "))
    assert connection._outbox.closing is not None
    assert connection._outbox.closing.code == 1008
    connection.close("over")


async def test_who_sends_and_does_not_read_is_not_read() -> None:
    connection = answering()
    item = '{"type":"conversation.item.create","item":{"type":"message","role":"user","content":[%s]}}'
    connection.receive_text(item % ('{"type":"input_text","text":"%s"}' % ("x" * 100_000)))
    sent = 0
    while connection.readable.is_set():
        connection.receive_text('{"type":"conversation.item.retrieve","item_id":"nothing"}')
        sent += 1
    assert connection._outbox.closing is None
    for _ in range(sent + 3):
        connection.written(await connection.next_event())
    assert connection.readable.is_set()
    connection.close("over")
