"""The shell of a session on a desk: what all of them keep together is bounded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from shared import events
from shared.session_config import Extensions, TranscriptionSession
from voxd import messages as m
from voxd.budget import Budget, Kept
from voxd.connection import Closed, Connection
from voxd.dialect import Dialect
from voxd.metrics import Targets, TurnReport
from voxd.session import Profile

SECOND = bytes(48_000)  # at the API's own 24 kHz


class Host:
    """An engine process that hears nothing."""

    ready = m.Ready("echo", None, False)

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def attach(self, client: object) -> int:
        return next(self._numbers)

    def send(self, commands: list[m.Command]) -> None:
        pass

    def detach(self, stream: int) -> None:
        pass


class Nobody:
    def received(self, samples: int) -> None:
        pass

    def written(self, event: events.ServerEvent, report: TurnReport | None) -> None:
        pass


@pytest.fixture
def connections() -> Iterator[list[Connection]]:
    """Three, which may keep ten seconds together."""
    budget = Budget(audio=Kept(10 * 32_000))
    parts = Host(), lambda ready: Profile("echo", None), lambda name: TranscriptionSession(id=name)
    made = [
        Connection(*parts, lambda: 0, Targets(), "", Dialect({}, 0), Nobody(), budget)  # type: ignore[arg-type]  # a desk's host
        for _ in range(3)
    ]
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
    assert first._closing is None
    third.close(str(closed))
    second.receive_audio(SECOND)
    assert second._closing is None, "there is room again"


async def test_an_acknowledgement_says_when_the_newest_sound_came() -> None:
    """Not when it was said: what has become settled since then is no news of the way."""
    times = iter(range(1000, 2000))
    resumable = TranscriptionSession(id="x", voxd=Extensions(resume=True, resume_token="t"))
    connection = Connection(
        Host(),  # type: ignore[arg-type]
        lambda ready: Profile("echo", None),
        lambda name: resumable,
        lambda: next(times),
        Targets(),
        "",
        Dialect({}, 0),
        Nobody(),
        Budget(),
    )
    connection.receive_audio(SECOND)
    came_us = connection._received_us
    connection.receive_output(m.Heard(connection.stream, 0, (0.0,) * 30))
    connection.close("over")
    acks = [each.event for each in connection._outbound if isinstance(each.event, events.Ack)]
    told = [each.data for each in connection._outbound if isinstance(each.event, events.Ack)]
    assert len(acks) > 2, "one for each piece, and one for what was heard"
    assert next(times) > came_us + 1, "time has passed between the two"
    assert [b'"received_us":%d' % came_us in data for data in told[-2:]] == [True, True]
