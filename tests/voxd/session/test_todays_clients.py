"""Input of today's clients: histories, languages, fields of the beta API, turns at the limits."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

import pytest

from shared import events
from shared.events import WireError
from shared.languages import language_of
from tests.support.talk import SILENCE, Desk
from voxd import messages as m
from voxd.session.terms import Profile
from voxd.telemetry.log import BreachLimiter, HttpRefusals, SessionLog, field_name
from voxd.telemetry.turn_meter import Targets


def told(made: Desk, *sent: dict[str, Any]) -> list[dict[str, Any]]:
    before = len(made.events)
    for event in sent:
        try:
            made.send(events.parse_client(json.dumps(event)))
        except WireError as error:
            made.session.receive_error(error)
            made.drain()
    return [json.loads(events.dump(event)) for event in made.events[before:]]


def update(**session: Any) -> dict[str, Any]:
    return {"type": "session.update", "session": session}


# ── yesterday's fields, and those without effect ────────────────────────────────────────────────────────────────────


def test_all_fields_of_the_beta_are_refused_in_one_error_that_names_the_new_places() -> None:
    made = Desk("realtime")
    before = made.session.config
    (found,) = told(
        made, update(modalities=["text"], voice="alloy", turn_detection=None, temperature=0.8, instructions="Be kind.")
    )
    error = found["error"]

    assert error["code"] == "unknown_parameter"
    for old, new in [("modalities", "output_modalities"), ("voice", "audio.output.voice")]:
        assert f"'session.{old}' is now 'session.{new}'" in error["message"]
    assert "'session.turn_detection' is now 'session.audio.input.turn_detection'" in error["message"]
    assert "'session.temperature' is gone" in error["message"]
    assert made.session.config == before

    (found,) = told(made, {"type": "response.create", "response": {"modalities": ["text"], "voice": "alloy"}})
    assert "response.output_modalities" in found["error"]["message"]
    assert "response.audio.output.voice" in found["error"]["message"]
    (found,) = told(made, {"type": "transcription_session.update", "session": {}})
    assert "session.update" in found["error"]["message"]


def test_what_has_no_effect_is_told_once_to_a_client_that_opted_in_to_nothing() -> None:
    made = Desk("realtime")
    asked = update(reasoning={"effort": "low"}, parallel_tool_calls=True, hologram=1, model="gpt-realtime-2.1")
    first, second = told(made, asked, asked)

    params = {each["param"]: each["code"] for each in first["voxd_warnings"]}
    assert params == {
        "session.model": "model_mapped",
        "session.hologram": "unknown_field",
        "session.reasoning": "no_effect",
        "session.parallel_tool_calls": "no_effect",
    }
    assert first["session"]["reasoning"] == {"effort": "low"}
    assert "voxd_warnings" not in second

    (found,) = told(made, {"type": "response.create", "response": {"tools": [{"type": "function", "name": "f"}]}})
    assert [each["param"] for each in found["voxd_warnings"]] == ["response.tools"]


def test_defaults_are_no_news() -> None:
    made = Desk("realtime")
    (found,) = told(
        made, update(tools=[], tool_choice="auto", truncation="auto", tracing=None, output_modalities=["text"])
    )

    assert "voxd_warnings" not in found


# ── languages ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "code"),
    [
        *[(text, "en") for text in ("en", "EN", "en-US", "en_GB", " En ", "eng", "english", "English", "ENGLISH")],
        *[(text, "zh") for text in ("zh-Hans-CN", "cmn", "Chinese", "中文")],
        *[(text, "de") for text in ("de-AT", "ger", "deu", "Deutsch")],
        *[(text, None) for text in ("", " ", "auto", "AUTO", "und", "multi")],
        ("yue", "yue"),
    ],
)
def test_a_language_is_what_people_mean(text: str, code: str | None) -> None:
    assert language_of(text) == code


@pytest.mark.parametrize("text", ["klingon", "xx", "e", "12", "en_US_POSIX\0"[::-1], "x" * 5000])
def test_what_names_no_language_says_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="give a code such as 'en'") as caught:
        language_of(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("hints", [{"language": "en-US"}, {"languages": ["English"]}, {"language": "eng"}])
def test_the_engine_hears_of_the_code(hints: dict[str, Any]) -> None:
    made = Desk("realtime", Profile("whisper", "echo", languages=("en",)))
    (found,) = told(made, update(audio={"input": {"transcription": hints}}))

    assert found["session"]["audio"]["input"]["transcription"]["language"] == "en"
    assert made.last(m.Open).language == "en"
    (found,) = told(made, update(audio={"input": {"transcription": {"language": "auto"}}}))
    assert made.last(m.Open).language is None


def test_a_language_that_the_engine_lacks_is_one_answer_and_nothing_is_applied() -> None:
    made = Desk("realtime", Profile("whisper", "echo", languages=("en",)))
    before = made.session.config
    (found,) = told(made, update(instructions="Be kind.", audio={"input": {"transcription": {"language": "de-AT"}}}))

    assert found["type"] == "error"
    assert found["error"]["param"] == "session.audio.input.transcription.language"
    assert "it knows en" in found["error"]["message"]
    assert "Nothing of this update was applied" in found["error"]["message"]
    assert made.session.config == before


def test_keywords_are_words_to_expect() -> None:
    made = Desk()
    told(made, update(audio={"input": {"transcription": {"prompt": "A lecture.", "keywords": ["Ada", "Babbage"]}}}))

    assert made.last(m.Open).prompt == "A lecture., Ada, Babbage"


# ── histories ───────────────────────────────────────────────────────────────────────────────────────────────────────

SOUND = base64.b64encode(bytes(3200)).decode()
HISTORY: list[dict[str, Any]] = [
    {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be brief."}]},
    {"type": "message", "role": "user", "content": [{"type": "input_audio", "transcript": "Rain?"}]},
    {"type": "function_call", "name": "weather", "arguments": "{}", "call_id": "c1"},
    {"type": "function_call_output", "call_id": "c1", "output": "sun"},
    {"type": "message", "role": "assistant", "content": [{"type": "output_audio", "transcript": "No."}]},
    {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA=="}],
    },
    {"type": "mcp_list_tools", "server_label": "s", "tools": []},
    {"type": "mcp_call", "server_label": "s", "name": "find", "arguments": "{}", "output": "it"},
    {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": None, "transcript": None}]},
    {"type": "message", "role": "user", "status": None, "content": [{"type": "input_text", "text": "And now?"}]},
]


def chain(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Restores a conversation as LiveKit does: all items at once, each after the one before it."""
    ids = [f"i{number}" for number in range(len(items))]
    return [
        {"type": "conversation.item.create", "previous_item_id": before, "item": item | {"id": each}}
        for item, each, before in zip(items, ids, ["root", *ids], strict=False)
    ]


def test_a_whole_history_is_kept_in_its_order_and_read_as_text() -> None:
    made = Desk("realtime")
    found = told(made, *chain(HISTORY))

    added = [event for event in found if event["type"] == "conversation.item.added"]
    assert [event["item"]["id"] for event in added] == [f"i{number}" for number in range(len(HISTORY))]
    assert [event["previous_item_id"] for event in added] == [None, *(f"i{n}" for n in range(len(HISTORY) - 1))]
    told(made, {"type": "response.create"})
    assert [(turn.role, turn.text) for turn in made.last(m.Respond).context] == [
        ("system", "Be brief."),
        ("user", "Rain?"),
        ("assistant", "[called weather({})]"),
        ("user", "[the call returned: sun]"),
        ("assistant", "No."),
        ("assistant", "[called find({}), which returned: it]"),
        ("user", "And now?"),
    ]


@pytest.mark.parametrize(
    "bad",
    [
        {"type": "message", "role": "developer", "content": []},
        {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": "@"}]},
        {"type": "message", "role": "user", "content": [{"type": "output_text", "text": "x"}]},
        {"type": "function_call", "name": 7, "arguments": "{}"},
        {"type": "hologram"},
    ],
)
def test_an_item_that_is_refused_costs_none_that_follows(bad: dict[str, Any]) -> None:
    made = Desk("realtime")
    found = told(made, *chain([HISTORY[0], bad, bad, HISTORY[4], HISTORY[9]]))

    assert [event["type"] for event in found].count("error") == 2
    added = [event for event in found if event["type"] == "conversation.item.added"]
    assert [(event["previous_item_id"], event["item"]["id"]) for event in added] == [
        (None, "i0"),
        ("i0", "i3"),
        ("i3", "i4"),
    ]


def test_an_item_that_was_deleted_still_has_a_place() -> None:
    made = Desk("realtime")
    told(made, *chain([HISTORY[0], HISTORY[9], HISTORY[4]]), {"type": "conversation.item.delete", "item_id": "i1"})
    after = {"type": "conversation.item.create", "previous_item_id": "i1", "item": HISTORY[9] | {"id": "new"}}

    assert told(made, after)[0]["previous_item_id"] == "i0"


# ── turns at the edges ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.1, 0.15, 0.2, 0.5, 0.9, 1.0])
def test_a_turn_begins_and_ends_at_every_threshold(threshold: float) -> None:
    made = Desk(turn_detection={"type": "server_vad", "threshold": threshold})
    made.speak(20, 0.97)
    made.speak(30, SILENCE)

    assert len(made.all(m.Commit)) == 1
    shown = made.last(events.SessionUpdated).session.audio.input.turn_detection
    assert shown.threshold == min(max(threshold, 0.05), 0.95)


@pytest.mark.parametrize(
    ("form", "samples"),
    [({"type": "audio/pcm", "rate": rate}, rate // 10) for rate in (8000, 16_000, 24_000, 48_000)]
    + [({"type": kind}, 800) for kind in ("audio/pcmu", "audio/pcma")],
)
def test_exactly_100_ms_can_be_committed_and_less_cannot(form: dict[str, Any], samples: int) -> None:
    width = 2 if form["type"] == "audio/pcm" else 1
    for count, kind in [(samples, "input_audio_buffer.committed"), (samples - samples // 50, "error")]:
        made = Desk(turn_detection=None, format=form)
        made.names()
        made.send(events.AudioAppend(audio=bytes(width * count)), events.AudioCommit())
        assert made.names()[0] == kind


def test_without_a_responder_the_first_turn_says_so_once() -> None:
    made = Desk("realtime", Profile("whisper", None))
    for _ in range(3):
        made.settle(made.turn(), "Hello?")
    (error,) = made.all(events.Error)

    assert error.error.code == "no_responder"
    assert "--respond" in error.error.message
    quiet = Desk("realtime", Profile("whisper", None), turn_detection={"type": "server_vad", "create_response": False})
    quiet.turn()
    transcribing = Desk("transcription", Profile("whisper", None))
    transcribing.turn()
    assert quiet.all(events.Error) == transcribing.all(events.Error) == []


# ── the journal ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_log_has_code_field_and_client_of_each_kind_once(caplog: pytest.LogCaptureFixture) -> None:
    log = SessionLog("sess_1234567890ab", Targets(None, None, None), BreachLimiter())
    with caplog.at_level(logging.INFO, "voxd"):
        log.started("realtime", "10.0.0.7", "whisper", None)
        for number in range(5):
            log.refused("invalid_value", f"item.content[{number}].type")
            log.ignored("no_effect", "session.tools")
        log.refused("unknown_parameter", "session.my secret\x1b[2J")
        for number in range(500):
            log.refused(f"code_{number}", None)
    lines = [record.getMessage() for record in caplog.records if "fields" in record.__dict__]

    assert [line for line in lines if "item.content[]" in line] == [
        "session 1234567890ab · refused · invalid_value · item.content[].type · 10.0.0.7"
    ]
    assert sum("session.tools" in line for line in lines) == 1
    assert "secret" not in "".join(lines)
    assert len(lines) < 60


def test_refusals_over_http_are_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    log = HttpRefusals(lambda: now[0])
    with caplog.at_level(logging.INFO, "voxd"):
        for at in (0.0, 1.0, 59.0, 61.0):
            now[0] = at
            log.tell("invalid_value", "session.audio", "10.0.0.7")
            log.tell("invalid_value", "session.audio", "10.0.0.8")

    assert len(caplog.records) == 4
    assert field_name("a b") == "(no name)"
