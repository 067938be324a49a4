"""Every field of every client event, with every kind of JSON value in its place: no session ends of it, none is the
worse for it, and each event is answered.

The events are the published ones (`tests.support.published`), so a field of tomorrow is tried, too.  Each place of each
event gets each odd value once; beyond that two places at a time, drawn by a seed.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared import events
from shared.events import WireError
from tests.support.odd_values import SEED, every, some, twice
from tests.support.talk import SILENCE, Desk
from voxd.gateway.dialect import Dialect
from voxd.session.terms import Profile

QUIET = ("input_audio_buffer.append", "output_audio_buffer.clear", "voxd.ping")  # are not answered


class Talk:
    """Sessions one after the other, each fed many events; after every one it must still serve."""

    def __init__(self) -> None:
        self.cases = 0
        self._new()

    def _new(self) -> None:
        kind = "realtime" if self.cases % 3 else "transcription"
        profile = Profile("whisper", "echo", delay_ms=480, languages=("en", "de"), guided_by=("language",))
        self.desk = Desk(kind, profile)
        self.desk.speak(5, SILENCE)
        self.dialect = Dialect({"dialect": "ga"}, 0)

    def say(self, event: Any) -> list[events.ServerEvent]:
        before = len(self.desk.events)
        try:
            received = self.dialect.receive(json.dumps(event))
        except WireError as error:
            self.desk.session.receive_error(error)
            self.desk.drain()
        else:
            self.desk.send(*(each for each in received if not isinstance(each, events.Ping)))
        return self.desk.events[before:]

    def case(self, event: dict[str, Any]) -> None:
        if self.cases % 50 == 0:
            self._new()
        self.cases += 1
        answers = self.say(event)
        assert answers or event.get("type") in QUIET, event
        for answer in answers:
            assert len(events.dump(answer)) < 1 << 20
            if isinstance(answer, events.Error):
                assert answer.error.message
                assert answer.error.event_id in (None, event.get("event_id"))
        assert [type(each) for each in self.say({"type": "input_audio_buffer.clear"})] == [events.Cleared], event
        self.desk.events.clear()
        self.desk.commands.clear()


def test_a_field_of_an_event_may_hold_anything() -> None:
    talk = Talk()
    for event in some(2_500, SEED):
        talk.case(event)


def test_two_fields_at_a_time() -> None:
    talk = Talk()
    for event in twice(1_500, SEED):
        talk.case(event)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_field_of_every_event_holds_everything() -> None:
    talk = Talk()
    for event in every():
        talk.case(event)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_cases() -> None:
    talk = Talk()
    for event in twice(100_000, SEED + 1):
        talk.case(event)
    assert talk.cases == 100_000
