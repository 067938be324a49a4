"""Every field of every client event, with every kind of JSON value in its place: no session ends of it, none is the
worse for it, and each event is answered.

The events are the published ones (`tests.support.published`), so a field of tomorrow is tried, too.  Each place of each
event gets each odd value once; beyond that two places at a time, drawn by a seed.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

from shared import events
from shared.events import WireError
from tests.support import published
from tests.support.talk import SILENCE, Desk
from voxd.gateway.dialect import Dialect
from voxd.session.terms import Profile

SEED = int(os.environ.get("VOXD_SEED", "1"))
DEEP: Any = []
for _ in range(60):
    DEEP = [DEEP] if len(json.dumps(DEEP)) % 2 else {"a": DEEP}
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 1.5, 1e308, -1e308, 10**19, -(10**30), 10**400, "", "x", "root", "auto", "en-US"),
    *("😀" * 40, "\ud83d", "\u0000\u001b[2J", "x" * 70_000, [], [None], [[]], ["x"], [1, {}], {}, {"a": None}),
    *({"type": "x"}, {"type": None}, {"id": []}, {"type": "message"}, {"": ""}, DEEP),
)
EXTRA = [
    {"type": "voxd.ping", "event_id": "e", "ping_id": "p", "t0": 1},
    {"type": "input_audio_buffer.append", "event_id": "e", "audio": "AAAA", "voxd_offset": 3},
    {
        "type": "session.update",
        "event_id": "e",
        "session": {"type": "realtime", "voxd": {"metrics": True, "delay_ms": 80}},
    },
]
EXAMPLES = [*(each for found in published.client_events().values() for each in found), *EXTRA]
QUIET = ("input_audio_buffer.append", "output_audio_buffer.clear", "voxd.ping")  # are not answered


def places() -> Iterator[tuple[dict[str, Any], published.Path]]:
    """Each place of each event, once."""
    seen = set()
    for example in EXAMPLES:
        for path in published.paths(example):
            shape = (example["type"], path, type(published.at(example, path)))
            if path and shape not in seen:
                seen.add(shape)
                yield example, path


def single() -> Iterator[dict[str, Any]]:
    for example, path in places():
        for odd in ODD:
            yield published.put(example, path, odd)


def walk(tree: Any, chance: random.Random) -> Iterator[published.Path]:
    """The places on one way down, from the first to the deepest."""
    path: published.Path = ()
    while isinstance(tree, (dict, list)) and tree:
        key = chance.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
        path, tree = (*path, key), tree[key]
        yield path


def double(seed: int, count: int) -> Iterator[dict[str, Any]]:
    chance, spots = random.Random(seed), list(places())
    for _ in range(count):
        example, path = chance.choice(spots)
        event = published.put(example, path, chance.choice(ODD))
        if below := list(walk(event, chance)):
            event = published.put(event, chance.choice(below), chance.choice(ODD))
        yield event


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


def share(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Some of the single ones, drawn by a seed."""
    chance, spots = random.Random(seed), list(places())
    for _ in range(count):
        example, path = chance.choice(spots)
        yield published.put(example, path, chance.choice(ODD))


def test_a_field_of_an_event_may_hold_anything() -> None:
    talk = Talk()
    for event in share(2_500, SEED):
        talk.case(event)


def test_two_fields_at_a_time() -> None:
    talk = Talk()
    for event in double(SEED, 1_500):
        talk.case(event)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_field_of_every_event_holds_everything() -> None:
    talk = Talk()
    for event in single():
        talk.case(event)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_cases() -> None:
    talk = Talk()
    for event in double(SEED + 1, 100_000):
        talk.case(event)
    assert talk.cases == 100_000
