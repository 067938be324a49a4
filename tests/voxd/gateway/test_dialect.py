"""Clients of vLLM and of the OpenAI API on one path, told apart by what they send."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given, strategies as st

from shared import events
from shared.events import WireError
from shared.session_config import Extensions, TranscriptionSession
from tests.support.talk import STREAM, Desk
from voxd import messages as m
from voxd.gateway.dialect import PIECE, TABLE, Dialect, Sign, State
from voxd.session.terms import Profile
from voxd.session.turns import FRAME

CREATED = 1_770_000_000
MODEL = "mistralai/Voxtral-Mini-4B-Realtime-2602"
COMMIT = {"type": "input_audio_buffer.commit"}
FINAL = COMMIT | {"final": True}
UPDATE = {"type": "session.update", "model": MODEL}
VLLM_TYPES = {"transcription.delta", "transcription.done", "error"}
TURN = b"\0\0" * FRAME * 20


def append(pcm: bytes = TURN) -> dict[str, str]:
    return {"type": "input_audio_buffer.append", "audio": b64encode(pcm).decode()}


class Line:
    """A client, its dialect and a session, without sockets."""

    def __init__(self, profile: Profile | None = None, **query: str) -> None:
        self.dialect = Dialect(query, CREATED)
        self.desk = Desk("realtime", profile)
        created = self.desk.events[0]
        self.desk.events.clear()
        self.greeting = json.loads(self.dialect.send(created)[0])

    def say(self, *messages: dict[str, Any] | str) -> list[dict[str, Any]]:
        """Sends client messages; returns what comes back at once."""
        for message in messages:
            try:
                parsed = self.dialect.receive(message if isinstance(message, str) else json.dumps(message))
            except WireError as error:
                self.desk.session.receive_error(error)
                self.desk.drain()
            else:
                for event in parsed:
                    if isinstance(event, events.AudioAppend):
                        self.desk._scores += [0.9] * (len(event.audio) // 2 // FRAME + 1)
                    self.desk.send(event)
                    self.desk.hear()
        return self.take()

    def engine(self, *outputs: m.Output) -> list[dict[str, Any]]:
        self.desk.output(*outputs)
        return self.take()

    def settle(self, text: str) -> list[dict[str, Any]]:
        """Gives the engine's final text of the oldest utterance that it was told to end."""
        ref = self.desk.all(m.Commit)[0].ref
        self.desk.commands = [c for c in self.desk.commands if not (isinstance(c, m.Commit) and c.ref == ref)]
        return self.engine(m.Settled(STREAM, ref, "completed", text))

    def take(self) -> list[dict[str, Any]]:
        sent = [json.loads(data) for event in self.desk.events for data in self.dialect.send(event)]
        self.desk.events.clear()
        return sent

    @property
    def said(self) -> int:
        """The ref of the utterance that is open."""
        return self.desk.last(m.Onset).ref


# ── golden exchanges ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "opening",
    [
        [UPDATE, COMMIT],  # the present example client
        [COMMIT],  # the first one
        [UPDATE, COMMIT | {"final": False}],
        [{"type": "session.update", "model": "gpt-4o-transcribe"}],
        [COMMIT | {"final": False}],
    ],
    ids=["model-commit", "commit", "model-commit-false", "unknown-model", "commit-false"],
)
def test_the_example_clients_of_vllm(opening: list[dict[str, Any]]) -> None:
    line = Line()
    assert (line.greeting["id"], line.greeting["created"]) == ("sess_1", CREATED)
    assert line.greeting["session"]["id"] == "sess_1", "a GA client reads the same message"

    assert line.say(*opening) == [], "the empty first commit is no transcription"
    assert line.say(append()) == []
    assert line.engine(m.Said(STREAM, line.said, "hello")) == [{"type": "transcription.delta", "delta": "hello"}]
    assert line.say(append(), FINAL) == []
    assert line.settle("hello there") == [
        {"type": "transcription.delta", "delta": " there"},
        {
            "type": "transcription.done",
            "text": "hello there",
            "usage": {"prompt_tokens": 16, "completion_tokens": 2, "total_tokens": 18},
        },
    ]


def test_the_session_is_configured_for_vllm_once() -> None:
    line = Line()
    line.say(UPDATE, COMMIT, UPDATE)
    config = line.desk.session.config

    assert isinstance(config, TranscriptionSession)
    assert config.audio.input.format.hz == 16_000
    assert config.audio.input.turn_detection is None
    assert config.audio.input.transcription is not None
    assert len(line.desk.all(m.Open)) == 3, "the first one, the desk's, and the dialect's"


def test_a_client_may_send_everything_before_its_first_commit() -> None:
    line = Line()
    assert line.say(UPDATE, append(), COMMIT, FINAL) == []
    assert [each["type"] for each in line.settle("hello")] == ["transcription.delta", "transcription.done"]


def test_several_transcriptions_on_one_connection() -> None:
    line = Line()
    texts = []
    for words in ("one", "two", "three"):
        line.say(UPDATE, COMMIT, append(), FINAL)
        texts += [each["text"] for each in line.settle(words) if each["type"] == "transcription.done"]

    assert texts == ["one", "two", "three"]


@pytest.mark.parametrize("pcm", [b"", b"\0", b"\0\0" * 1599, b"\0" * 3199])
def test_a_final_commit_of_next_to_nothing_is_an_empty_transcription(pcm: bytes) -> None:
    line = Line()
    line.say(UPDATE, COMMIT, append(pcm))
    sent = line.say(FINAL)
    if line.desk.all(m.Commit):
        sent = line.settle("")

    assert [(each["type"], each["text"]) for each in sent] == [("transcription.done", "")]


def test_a_session_that_refuses_a_commit_has_transcribed_nothing() -> None:
    dialect = Dialect({"dialect": "vllm"}, CREATED)
    dialect.receive(json.dumps(FINAL))
    body = events.ErrorBody("invalid_request_error", "input_audio_buffer_commit_empty", "", None, None)

    assert json.loads(dialect.send(events.Error("e", body))[0])["text"] == ""


def test_text_waits_for_the_end_of_the_transcription_before_it() -> None:
    line = Line()
    line.say(UPDATE, COMMIT, append(), FINAL, append())

    assert line.engine(m.Said(STREAM, line.said, "second")) == []
    assert [each.get("delta", each.get("text")) for each in line.settle("first")] == ["first", "first", "second"]


def test_a_transcription_of_many_minutes_is_one_transcription() -> None:
    dialect = Dialect({"dialect": "vllm"}, CREATED)
    got = dialect.receive(json.dumps(append(bytes(PIECE + 1000))))
    commits = [each for each in got if isinstance(each, events.AudioCommit)]
    audio = b"".join(each.audio for each in got if isinstance(each, events.AudioAppend))
    assert (len(commits), len(audio)) == (1, PIECE + 1000)
    dialect.receive(json.dumps(FINAL))

    sent = []
    for item, text in (("a", "long"), ("b", "talk")):
        sent += dialect.send(events.Committed("e", item, None))
        sent += dialect.send(events.TranscriptionDelta("e", item, 0, text))
        sent += dialect.send(events.TranscriptionCompleted("e", item, 0, text, {"type": "duration", "seconds": 1}))
    told = [json.loads(each) for each in sent]

    assert [each["type"] for each in told] == ["transcription.delta", "transcription.delta", "transcription.done"]
    assert told[2]["text"] == told[0]["delta"] + told[1]["delta"] == "long talk"


def test_a_failed_transcription_is_an_error_and_the_next_one_works() -> None:
    line = Line()
    line.say(UPDATE, COMMIT, append(), FINAL)
    ref = line.desk.last(m.Commit).ref
    line.desk.commands.clear()

    assert line.engine(m.Failed(STREAM, ref, "engine_error", "broken")) == [
        {"type": "error", "error": "broken", "code": "processing_error"}
    ]
    line.say(COMMIT, append(), FINAL)
    assert line.settle("again")[-1]["text"] == "again"


def test_a_server_without_a_transcriber_says_so() -> None:
    assert Line(Profile(None, "echo")).say(UPDATE, COMMIT)[0]["code"] == "model_not_found"


# ── bad input ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "invalid_json"),
        ("[]", "invalid_event"),
        ("3", "invalid_event"),
        ("{}", "unknown_event"),
        ('{"type":"response.create"}', "unknown_event"),
        ('{"type":"input_audio_buffer.clear"}', "unknown_event"),
        ('{"type":"input_audio_buffer.append"}', "invalid_audio"),
        ('{"type":"input_audio_buffer.append","audio":"@"}', "invalid_audio"),
        ('{"type":"input_audio_buffer.commit","final":"yes"}', "invalid_event"),
        ('{"type":"session.update","model":7}', "invalid_event"),
    ],
)
def test_bad_input_is_told_in_the_words_of_vllm_and_costs_nothing(message: str, code: str) -> None:
    line = Line()
    line.say(UPDATE, COMMIT)
    error, *rest = line.say(message)

    assert (error["type"], error["code"], rest) == ("error", code, [])
    assert isinstance(error["error"], str)
    assert set(error) == {"type", "error", "code"}
    line.say(append(), FINAL)
    assert line.settle("fine")[-1]["text"] == "fine"


def test_strict_model_names_refuse_others_and_the_right_one_still_works() -> None:
    dialect = Dialect({}, CREATED, models={"whisper"})
    with pytest.raises(WireError) as caught:
        dialect.receive(json.dumps(UPDATE))
    assert caught.value.code == "model_not_found"
    configured = dialect.receive(json.dumps(UPDATE | {"model": "whisper"}))
    assert [type(each) for each in configured] == [events.SessionUpdate]


# ── which dialect ───────────────────────────────────────────────────────────────────────────────────────────────────


def decided(*messages: dict[str, Any] | str, **query: str) -> State:
    line = Line(**query)
    line.say(*messages)
    return line.dialect.state


GA_EVENTS = [
    {"type": "session.update", "session": {"type": "transcription"}},
    {"type": "session.update", "session": {}, "model": MODEL},
    {"type": "input_audio_buffer.clear"},
    {"type": "response.create"},
    {"type": "response.cancel"},
    {"type": "voxd.ping"},
    append(),
]


@pytest.mark.parametrize("first", GA_EVENTS)
def test_an_event_of_ga_fixes_ga_for_good(first: dict[str, Any]) -> None:
    assert decided(first) is State.GA
    assert decided(first, UPDATE, FINAL, COMMIT) is State.GA


@pytest.mark.parametrize("query", [{"model": "x"}, {"intent": "transcription"}, {"model": "x", "intent": "y"}])
def test_a_url_of_ga_keeps_its_shapes(query: dict[str, str]) -> None:
    line = Line(**query)
    assert "created" not in line.greeting
    assert line.say(COMMIT)[0]["error"]["code"] == "input_audio_buffer_commit_empty"
    assert line.dialect.state is State.GA
    assert decided(UPDATE, **query) is State.VLLM, "this nobody but vLLM's clients sends"


@pytest.mark.parametrize("noise", ["{", "[]", '{"type":"x"}', '{"type":"session.update"}', '{"type":3}'])
def test_what_is_no_event_decides_nothing(noise: str) -> None:
    assert decided(noise) is State.UNDECIDED
    assert decided(noise, COMMIT) is State.VLLM
    assert "message" in Line().say(noise)[0]["error"], "GA's shape, until it is decided"


def test_the_url_may_decide() -> None:
    line = Line(dialect="vllm")
    assert line.greeting == {"type": "session.created", "id": "sess_1", "created": CREATED}
    assert line.say(append(), COMMIT, FINAL) == []
    assert line.settle("yes")[-1]["text"] == "yes"
    assert "created" not in Line(dialect="ga").greeting
    assert decided(UPDATE, dialect="ga") is State.GA
    assert decided(dialect="other") is State.UNDECIDED


def test_once_decided_nothing_changes_it() -> None:
    assert {state for state, _ in TABLE} == {State.UNDECIDED}
    assert {sign for _, sign in TABLE} == set(Sign)


# ── anything ────────────────────────────────────────────────────────────────────────────────────────────────────────

messages = st.sampled_from(
    [
        UPDATE,
        COMMIT,
        FINAL,
        COMMIT | {"final": False},
        append(b"\0\0" * FRAME * 4),
        append(b"\0"),
        *GA_EVENTS,
        "{",
        "[]",
    ]
)
outputs = st.sampled_from(["said", "settled", "failed"])


@given(st.lists(messages | outputs, max_size=25), st.sampled_from([{}, {"model": "x"}, {"dialect": "vllm"}]))
def test_each_dialect_keeps_to_its_own_shapes(steps: list[Any], query: dict[str, str]) -> None:
    line = Line(**query)
    text, dones, ended = "", [], 0
    for step in steps:
        before = line.dialect.state
        if step in ("said", "settled", "failed"):
            refs = [each.ref for each in (*line.desk.all(m.Onset), *line.desk.all(m.Commit))]
            ref = refs[-1] if refs else 1
            kinds: dict[str, m.Output] = {
                "said": m.Said(STREAM, ref, "word "),
                "settled": m.Settled(STREAM, ref, "completed", "word word"),
                "failed": m.Failed(STREAM, ref, "engine_error", "broken"),
            }
            sent = line.engine(kinds[step])
        else:
            sent = line.say(step)
        state = line.dialect.state
        assert before in (State.UNDECIDED, state)
        if state is State.VLLM:
            assert {each["type"] for each in sent} <= VLLM_TYPES
            assert not any("event_id" in each for each in sent)
            assert all(isinstance(each["error"], str) for each in sent if each["type"] == "error")
        else:
            assert not {each["type"] for each in sent} & (VLLM_TYPES - {"error"})
            assert all("event_id" in each for each in sent)
        ended += step == FINAL and state is State.VLLM
        dones += [each["text"] for each in sent if each["type"] == "transcription.done"]
        text += "".join(each["delta"] for each in sent if each["type"] == "transcription.delta")
    assert len(dones) <= ended
    assert "".join(dones) in text or not dones


def test_extensions_do_not_leak_into_vllm() -> None:
    dialect = Dialect({"dialect": "vllm"}, CREATED)
    session = TranscriptionSession(id="s", voxd=Extensions(transcribe="echo"))

    assert dialect.send(events.SessionUpdated("e", session)) == []
    assert dialect.send(events.Provisional("e", "i", "guess")) == []
    assert dialect.send(events.Pong("e", None, None, 0, 0)) == []
