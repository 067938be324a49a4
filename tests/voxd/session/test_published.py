"""The published types of the API, field by field: what a client may send is taken and echoed, and what is sent is as
published.  A new version of the SDK that adds a field fails here until voxd knows it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from openai.types.realtime import ClientSecretCreateParams, ClientSecretCreateResponse
from openai.types.realtime.conversation_item import ConversationItem
from openai.types.realtime.realtime_response_create_params import RealtimeResponseCreateParams
from openai.types.realtime.realtime_session_create_request import RealtimeSessionCreateRequest
from openai.types.realtime.realtime_transcription_session_create_request import (
    RealtimeTranscriptionSessionCreateRequest,
)

from shared import events
from shared.session_config import RealtimeSession
from tests.support import published
from tests.support.talk import STREAM, Desk
from voxd import messages as m
from voxd.session.terms import Profile
from voxd.web import client_secrets as secrets

SESSIONS = [
    *published.examples(RealtimeSessionCreateRequest),
    *published.examples(RealtimeTranscriptionSessionCreateRequest),
]
ITEMS = published.examples(ConversationItem)
REQUESTS = published.examples(RealtimeResponseCreateParams)
# What is in effect is shown instead of what was asked for.
SETTLED = {("model",), ("output_modalities",), ("audio", "input", "transcription", "model")}
# Where a null has a meaning that clients know; nowhere else is one sent.
NULLS = ("previous_item_id", "transcript", "turn_detection", "transcription", "conversation_id", "code", "param")
NULLS += ("event_id", "output", "error", "approval_request_id", "reason")
ANSWERS = {"id", "object", "expires_at", "model"}  # of a session: in the API's answers, not in the SDK's type of them


def desk(kind: str = "realtime") -> Desk:
    return Desk(kind, Profile("whisper", "echo", delay_ms=480))


def told(made: Desk, *sent: dict[str, Any]) -> list[dict[str, Any]]:
    """The server events that answer events sent as JSON."""
    before = len(made.events)
    for event in sent:
        made.send(events.parse_client(json.dumps(event)))
    return [json.loads(events.dump(event)) for event in made.events[before:]]


def lost(sent: Any, shown: Any) -> Iterator[published.Path]:
    """The paths of `sent` whose value is not in `shown`."""
    for path in published.paths(sent):
        if isinstance(published.at(sent, path), (dict, list)):
            continue
        try:
            same = published.at(shown, path) == published.at(sent, path)
        except (KeyError, IndexError, TypeError):
            same = False
        if not same:
            yield path


@pytest.mark.parametrize("session", SESSIONS, ids=range(len(SESSIONS)))
def test_every_field_of_a_session_is_taken_and_echoed(session: dict[str, Any]) -> None:
    made = Desk(session["type"], Profile("whisper", "echo", delay_ms=480))
    found = told(made, {"type": "session.update", "session": session})

    assert [event["type"] for event in found] == ["session.updated"]
    missing = set(lost(session, found[0]["session"])) - SETTLED
    assert {path[:1] if path[0] == "output_modalities" else path for path in missing} - SETTLED == set()


@pytest.mark.parametrize("item", ITEMS, ids=range(len(ITEMS)))
def test_every_kind_of_item_is_kept_and_echoed(item: dict[str, Any]) -> None:
    made = desk()
    found = told(made, {"type": "conversation.item.create", "item": item})

    assert [event["type"] for event in found] == ["conversation.item.added", "conversation.item.done"]
    for event in found:
        kept = {path for path in lost(item, event["item"]) if path[-1] not in ("audio", "status")}
        assert kept - {("content", n, name) for n in range(9) for name in _beside(item, n)} == set()


def _beside(item: dict[str, Any], number: int) -> list[str]:
    """Fields of a content part that its type has no use for; an example has all of them."""
    kind = item["content"][number].get("type", "") if number < len(item.get("content", ())) else ""
    uses = {"text": ["text"], "audio": ["transcript"], "image": ["image_url", "detail"]}
    return [name for end, names in uses.items() if not kind.endswith(end) for name in names]


@pytest.mark.parametrize("request_", REQUESTS, ids=range(len(REQUESTS)))
def test_every_field_of_a_response_is_taken(request_: dict[str, Any]) -> None:
    made = desk()
    usable = [item for item in request_["input"] if item.get("role") != "user"]
    typed = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "?"}]}
    found = told(made, {"type": "response.create", "response": request_ | {"input": [*usable, typed]}})

    assert [event["type"] for event in found] == ["response.created"]
    assert found[0]["response"]["metadata"] == {"k": "v"}


@pytest.mark.parametrize("kind", published.client_events())
def test_every_client_event_is_known_and_null_is_not_given(kind: str) -> None:
    """Every field that may be left out may also be null."""
    assert kind in events.CLIENT_TYPES
    for example in published.client_events()[kind]:
        for path in published.paths(example):
            if path and path[-1] in ("event_id", "previous_item_id", "response_id", "response"):
                events.parse_client(json.dumps(published.put(example, path, None)))


@pytest.mark.parametrize("session", SESSIONS[:1] + SESSIONS[-1:], ids=["realtime", "transcription"])
def test_a_null_changes_nothing_but_what_it_switches_off(session: dict[str, Any]) -> None:
    sound = ("turn_detection", "transcription", "noise_reduction")
    off = {("tracing",), ("prompt",), *(("audio", "input", name) for name in sound)}
    needed = {"type", "id"}  # of things that cannot be without
    for path in published.paths(session):
        if not path or path[-1] in needed or isinstance(path[-1], int) or set(path[:-1]) & {"tools", "prompt"}:
            continue
        made = Desk(session["type"], Profile("whisper", "echo", delay_ms=480))
        before = told(made, {"type": "session.update", "session": session})[-1]["session"]
        change: Any = None
        for name in reversed(path):
            change = {name: change}
        if len(path) > 3 and path[2] == "turn_detection":  # replaced as a whole over its defaults
            change["audio"]["input"]["turn_detection"]["type"] = "server_vad"
            after = told(made, {"type": "session.update", "session": change})[-1]
            assert after["type"] == "session.updated", (path, after)
            continue
        after = told(made, {"type": "session.update", "session": change})[-1]
        assert after["type"] == "session.updated", (path, after)
        changed = {place[: len(path)] for place in lost(before, after["session"])}
        opaque = bool(set(path[:-1]) & {"tracing", "reasoning", "truncation", "voice", "tool_choice", "format"})
        assert opaque or changed == ({path} if path in off else set()), path


# ── what is sent ────────────────────────────────────────────────────────────────────────────────────────────────────


def everything() -> Iterator[tuple[str, bytes]]:
    """The events of a long session, by type, as they are sent."""
    made = desk()
    for item in ITEMS:
        told(made, {"type": "conversation.item.create", "item": {**item, "id": f"i{len(made.events)}"}})
    for session in SESSIONS:
        told(Desk(session["type"]), {"type": "session.update", "session": session})
    ref = made.turn()
    made.settle(ref, "Well?")
    asked = made.last(m.Respond).ref
    made.output(m.Said(STREAM, asked, "Well, I am."), m.Settled(STREAM, asked, "completed", "Well, I am."))
    made.output(m.Failed(STREAM, made.turn(), "engine_error", "The engine failed."))
    told(made, {"type": "response.cancel"})
    for number in (1, 2, 3):
        told(made, {"type": "response.create", "response": {"metadata": {"n": str(number)}}})
    told(made, {"type": "response.cancel"}, {"type": "response.cancel"}, {"type": "input_audio_buffer.clear"})
    told(made, {"type": "conversation.item.retrieve", "item_id": made.last(events.Committed).item_id})
    told(made, {"type": "conversation.item.delete", "item_id": made.last(events.Committed).item_id})
    plain = Desk("realtime", Profile("whisper", None))
    plain.turn()
    for kind in ("realtime", "transcription"):
        made.events += Desk(kind).events
    for event in (*made.events, *plain.events):
        data = events.dump(event).replace(b'"rate":16000', b'"rate":24000')  # the desk itself asks for 16 kHz
        yield str(event.__struct_config__.tag), data


def nulls(value: Any, path: str = "") -> Iterator[str]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inside in inner:
        if inside is None and name not in NULLS:
            yield f"{path}.{name}"
        yield from nulls(inside, f"{path}.{name}")


def test_what_is_sent_is_as_published() -> None:
    models, seen = published.server_models(), set()
    for kind, data in everything():
        seen.add(kind)
        models[kind].model_validate_json(data, strict=True)
        event = json.loads(data)
        if "tools" not in event.get("item", {}):
            assert list(nulls(event)) == []
        allowed = {f".session.{name}" for name in ANSWERS}
        assert set(published.foreign(event, models[kind])) - allowed == set(), kind

    assert len(seen) > 20


def test_a_transcription_that_nobody_configured_is_bare() -> None:
    """pipecat's model of it accepts `model`, `language` and `prompt` and nothing else."""
    (updated,) = told(desk(), {"type": "session.update", "session": {"audio": {"input": {"transcription": {}}}}})

    assert updated["session"]["audio"]["input"]["transcription"] == {"model": "whisper"}


# ── client secrets ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_client_secret_takes_what_is_published() -> None:
    assert set(ClientSecretCreateParams.__annotations__) == {"expires_after", "session"}
    for session in SESSIONS:
        body = {"expires_after": {"anchor": "created_at", "seconds": 60}, "session": session}
        asked = secrets._parse(json.dumps(body).encode())
        shown = secrets._effective(RealtimeSession(id="s", model="m"), asked.session or {}, "m")
        told = {"value": "ek_1", "expires_at": 1, "session": msgspec.to_builtins(shown)}
        ClientSecretCreateResponse.model_validate_json(json.dumps(told))
