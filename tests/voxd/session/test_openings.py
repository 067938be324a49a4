"""An update that the engine has to agree to is answered once, whenever it answers and whatever comes between."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given, strategies as st

from shared import events
from shared.session_config import RealtimeSession
from tests.support.talk import STREAM, Desk, counting_ids
from voxd import messages as m
from voxd.session.core import Session
from voxd.session.terms import Profile

REFUSED = "la"  # a language that this engine does not know, and does not say so
PROFILE = Profile("voxtral_mini", "voxtral_mini", delay_ms=480)


class Engine:
    """Takes Opens late, as the engine process does; keeps what is in effect.  It refuses one language, and
    transcription if it has no room for it."""

    def __init__(self, *, room: bool) -> None:
        self.room = room
        self.opened: m.Open | None = None
        self.waiting: deque[m.Open] = deque()

    def answer(self) -> m.Output | None:
        """To the oldest Open."""
        asked, first = self.waiting.popleft(), self.opened is None
        if asked.language == REFUSED or ("transcribe" in asked.roles and not self.room):
            return m.Refused(STREAM, "no such thing", kept=not first)
        self.opened = asked
        return None if first else m.Opened(STREAM)


class Talk:
    """A session, an engine that answers when told to, and a client that reads whatever it may."""

    def __init__(self, *, room: bool) -> None:
        self.session = Session(STREAM, RealtimeSession(id="s", model=""), PROFILE, counting_ids())
        self.engine, self.read, self.up = Engine(room=room), list[events.ServerEvent](), True
        self.drain()
        self.work()
        self.read.clear()

    def drain(self) -> None:
        commands, _ = self.session.to_send()
        self.engine.waiting += (each for each in commands if isinstance(each, m.Open))
        while not self.session.undecided and (event := self.session.next_event()) is not None:
            self.read.append(event)

    def send(self, event: events.ClientEvent) -> None:
        self.session.receive_event(event)
        self.drain()

    def work(self) -> None:
        if self.engine.waiting and (output := self.engine.answer()) is not None:
            self.session.receive_output(output)
            self.drain()

    def lose(self) -> None:
        if self.up:
            self.up, self.engine = False, Engine(room=self.engine.room)
            self.session.engine_lost()
            self.drain()

    def ready(self) -> None:
        if not self.up:
            self.up = True
            self.session.engine_ready(PROFILE)
            self.drain()

    def leave_and_return(self) -> None:
        """The engines forget the stream; what they have not yet answered, they still answer."""
        self.session.client_lost()
        while self.engine.waiting:
            self.work()
        self.engine.opened = None
        if self.up:
            self.session.client_back(PROFILE)
        self.drain()


def named(event: events.ServerEvent) -> str:
    return str(event.__struct_config__.tag)


def update(**session: Any) -> events.SessionUpdate:
    return events.SessionUpdate(event_id=f"e{len(session)}", session=session)


def hearing(**transcription: Any) -> dict[str, Any]:
    return {"audio": {"input": {"transcription": transcription}}}


@pytest.mark.parametrize("patch", [hearing(), hearing(language=REFUSED), hearing(prompt="Voxtral")], ids=str)
def test_nothing_is_said_before_the_engine_has_answered(patch: dict[str, Any]) -> None:
    talk = Talk(room=False)
    before = talk.session.config
    talk.send(update(instructions="Be brief.", **patch))
    talk.send(events.ItemCreate(item=events.ItemDraft(role="user", content=(events.Content("input_text", text="a"),))))
    assert talk.read == []
    talk.work()

    assert sorted(map(named, talk.read)) == ["conversation.item.added", "conversation.item.done", "error"]
    (error,) = (each for each in talk.read if isinstance(each, events.Error))
    assert error.error.event_id == "e2"
    assert "Nothing of this update was applied" in error.error.message
    assert talk.session.config == before


def test_what_the_engine_has_no_say_in_does_not_wait_for_it() -> None:
    talk = Talk(room=True)
    talk.send(update(instructions="Be brief."))
    talk.send(update(audio={"input": {"turn_detection": None}}))

    assert list(map(named, talk.read)) == ["session.updated", "session.updated"]


def test_an_update_after_one_that_is_refused_is_applied_to_what_was_before() -> None:
    talk = Talk(room=True)
    talk.send(update(instructions="A", **hearing(language=REFUSED)))
    talk.send(update(tool_choice="none"))
    talk.send(update(audio={"input": {"transcription": {"language": "de"}}}))
    while talk.engine.waiting:
        talk.work()

    assert list(map(named, talk.read)) == ["error", "session.updated", "session.updated"]
    config = talk.session.config
    assert isinstance(config, RealtimeSession)
    assert (config.instructions, config.tool_choice) == ("", "none")
    assert config.audio.input.transcription is not None
    assert config.audio.input.transcription.language == "de"
    assert talk.engine.opened is not None
    assert talk.engine.opened.language == "de"


def test_who_is_shut_out_waits_for_no_engine() -> None:
    """The engine process has no such stream any more: it would take the next Open for a first one, and say nothing."""
    talk = Talk(room=True)
    talk.send(update(**hearing(language=REFUSED)))
    talk.leave_and_return()
    talk.work()
    assert isinstance(talk.read[-1], events.Error)
    assert talk.read[-1].error.code == "server_overloaded"
    talk.send(update(**hearing(language="de")))

    assert not talk.engine.waiting
    assert list(map(named, talk.read)) == ["session.updated", "error", "session.updated"]


PATCHES = [
    hearing(),
    hearing(language=REFUSED),
    hearing(language="de"),
    {"audio": {"input": {"transcription": None}}},
    {"instructions": "Be brief."},
    {"voxd": {"delay_ms": 240}},
    {"nonsense": 1, **hearing(language="en")},
    {"audio": {"input": {"turn_detection": None}}},
    {"audio": 3},
]
Step = tuple[str, dict[str, Any]]
steps = st.one_of(
    st.tuples(st.just("update"), st.sampled_from(PATCHES)),
    st.tuples(st.sampled_from(["work", "work", "lose", "ready", "leave_and_return"]), st.just({})),
)


@given(st.lists(steps, max_size=30), st.booleans())
def test_each_update_is_answered_once_and_the_engine_has_what_the_client_was_told(
    script: list[Step], room: bool
) -> None:
    talk, sent, shut_out = Talk(room=room), 0, False
    for name, patch in script:
        if name == "update":
            sent += 1
            talk.send(events.SessionUpdate(event_id=f"u{sent}", session=patch))
        else:
            getattr(talk, name)()
    talk.ready()
    while talk.engine.waiting:
        talk.work()

    answers = [each for each in talk.read if isinstance(each, events.SessionUpdated)]
    errors = [each.error for each in talk.read if isinstance(each, events.Error)]
    shut_out = any(error.code == "server_overloaded" for error in errors)
    own = [error.event_id for error in errors if error.event_id is not None]
    assert len(answers) + len(own) == sent
    assert len(set(own)) == len(own)
    assert not talk.session.undecided
    if not shut_out:
        config = talk.session.config
        assert talk.engine.opened is not None
        hints = config.audio.input.transcription
        assert (talk.engine.opened.language or "") == ((hints and hints.language) or "")
        assert ("transcribe" in talk.engine.opened.roles) == (hints is not None)
        assert not answers or answers[-1].session == config or own


def test_a_desk_that_does_not_agree_is_told_once() -> None:
    desk = Desk()
    desk.names()
    desk.agrees = False
    desk.send(events.SessionUpdate(session=hearing(language="de")))
    assert desk.names() == []
    desk.output(m.Refused(STREAM, "tiny.en understands English only", kept=True))

    assert desk.names() == ["error"]
    transcription = desk.session.config.audio.input.transcription
    assert transcription is not None
    assert not transcription.language
