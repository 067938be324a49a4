"""Tests of parsing and writing events."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from shared import events
from shared.events import WireError
from shared.session_config import RealtimeSession, ServerVad, TranscriptionSession, merge


@pytest.mark.parametrize(
    ("text", "code", "param", "event_id"),
    [
        ("{", "invalid_json", None, None),
        ("\xff", "invalid_json", None, None),
        ("[]", "invalid_event", "type", None),
        ("3", "invalid_event", "type", None),
        ('{"event_id":"a"}', "invalid_event", "type", "a"),
        ('{"type":3}', "invalid_event", "type", None),
        ('{"type":"nonsense","event_id":"b"}', "invalid_value", "type", "b"),
        ('{"type":"input_audio_buffer.append","event_id":"c"}', "missing_required_parameter", "audio", "c"),
        ('{"type":"input_audio_buffer.append","audio":7}', "invalid_value", "audio", None),
        ('{"type":"input_audio_buffer.append","audio":"@@"}', "invalid_value", "audio", None),
        ('{"type":"session.update"}', "missing_required_parameter", "session", None),
        (
            '{"type":"conversation.item.create","item":{"type":"message","role":"user","content":[{"type":"x"}]}}',
            "invalid_value",
            "item.content[0].type",
            None,
        ),
    ],
)
def test_bad_input_is_named(text: str, code: str, param: str | None, event_id: str | None) -> None:
    with pytest.raises(WireError) as caught:
        events.parse_client(text)

    assert (caught.value.code, caught.value.param, caught.value.event_id) == (code, param, event_id)


def test_an_unknown_type_is_answered_with_the_known_ones() -> None:
    with pytest.raises(WireError, match=r"input_audio_buffer\.commit"):
        events.parse_client('{"type":"nonsense"}')


def test_collecting_garbage_passes_over_values_that_cannot_make_circles() -> None:
    """A session keeps thousands of them, and while they are gone through all clients wait."""

    def below(kind: type) -> Iterator[type]:
        for each in kind.__subclasses__():
            yield each
            yield from below(each)

    modules = ("shared.events", "shared.parts", "shared.session_config", "voxd.messages", "voxd.session.conversation")
    for module in modules:
        importlib.import_module(module)
    kept: list[Any] = [each for each in below(msgspec.Struct) if each.__module__ in modules]
    assert len(kept) > 80
    assert [each for each in kept if each.__struct_config__.gc] == []


@given(st.text() | st.binary())
def test_any_input_is_an_event_or_a_wire_error(data: str | bytes) -> None:
    with pytest.raises(WireError):
        events.parse_client(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["audio", "session", "item", "response", "event_id", "previous_item_id", "response_id"])


@given(st.sampled_from(events.CLIENT_TYPES), st.dictionaries(keys, json_values))
def test_any_fields_of_a_known_type_are_an_event_or_a_wire_error(kind: str, fields: dict[str, object]) -> None:
    try:
        found = str(events.parse_client(json.dumps(fields | {"type": kind})).__struct_config__.tag)
    except WireError as error:
        found = error.code
    assert found in (kind, "invalid_value", "missing_required_parameter", "invalid_event")


def test_audio_is_base64_on_the_wire_and_bytes_inside() -> None:
    event = events.AudioAppend(audio=b"\x01\x02\x03")

    assert json.loads(events.dump(event))["audio"] == "AQID"
    assert events.parse_client(events.dump(event)) == event


def test_the_transcript_of_user_audio_is_written_even_while_it_is_null() -> None:
    item = events.Item("i", "user", (events.Content("input_audio", transcript=None),), "completed")

    assert json.loads(events.dump(events.ItemAdded("e", item, None)))["item"]["content"] == [
        {"type": "input_audio", "transcript": None}
    ]


def test_a_client_reads_what_the_server_writes() -> None:
    session = TranscriptionSession(id="s")
    event = events.SessionCreated("e", session)

    assert events.parse_server(events.dump(event)) == event


def test_a_client_skips_events_of_the_future() -> None:
    assert events.parse_server('{"type":"response.hologram.delta","event_id":"e"}') is None


# ── the session object ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_session_is_complete_when_shown() -> None:
    shown = msgspec.to_builtins(RealtimeSession(id="s", model="m"))

    assert shown["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24000}
    assert shown["audio"]["input"]["turn_detection"]["interrupt_response"] is True
    assert shown["audio"]["input"]["transcription"] is None
    assert "expires_at" not in shown


def test_only_what_is_present_changes() -> None:
    before = RealtimeSession(id="s", model="m", instructions="Be kind.")
    after = merge(before, {"audio": {"input": {"transcription": {"language": "en"}}}}, model="m")

    assert isinstance(after, RealtimeSession)
    assert after.instructions == "Be kind."
    assert after.audio.input.transcription is not None
    assert after.audio.input.turn_detection == ServerVad()


def test_turn_detection_replaces_the_old_one_over_its_defaults() -> None:
    first = merge(
        RealtimeSession(id="s", model="m"),
        {"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 0.7}}}},
        model="m",
    )
    second = merge(
        first,
        {"audio": {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 700}}}},
        model="m",
    )

    assert second.audio.input.turn_detection == ServerVad(silence_duration_ms=700)


def test_turn_detection_can_be_switched_off() -> None:
    after = merge(RealtimeSession(id="s", model="m"), {"audio": {"input": {"turn_detection": None}}}, model="m")

    assert after.audio.input.turn_detection is None


def test_the_type_changes_with_the_audio_settings_kept() -> None:
    sound = {"format": {"type": "audio/pcm", "rate": 16000}}
    before = merge(RealtimeSession(id="s", model="m"), {"audio": {"input": sound}}, model="m")
    after = merge(before, {"type": "transcription"}, model="m")

    assert isinstance(after, TranscriptionSession)
    assert after.audio.input.format.hz == 16000
    assert after.audio.input.transcription is not None
    assert isinstance(merge(after, {"type": "realtime"}, model="m"), RealtimeSession)


def test_a_client_cannot_name_the_engines_or_its_id() -> None:
    after = merge(RealtimeSession(id="s", model="m"), {"id": "mine", "voxd": {"respond": "me"}}, model="m")

    assert (after.id, after.voxd.respond) == ("s", None)


def test_g711_has_one_rate() -> None:
    before = RealtimeSession(id="s", model="m")
    after = merge(before, {"audio": {"input": {"format": {"type": "audio/pcmu"}}}}, model="m")

    assert after.audio.input.format.hz == 8000
    with pytest.raises(WireError, match="always 8000"):
        merge(before, {"audio": {"input": {"format": {"type": "audio/pcmu", "rate": 16000}}}}, model="m")


@given(st.dictionaries(st.sampled_from(["audio", "type", "voxd", "tools", "model", "id", "x"]), json_values))
def test_any_patch_is_taken_whole_or_refused(patch: dict[str, object]) -> None:
    try:
        after = merge(RealtimeSession(id="s", model="m"), patch, model="m")
    except WireError:
        return
    assert after.id == "s"


def test_the_protocol_page_names_every_extension() -> None:
    """The page names each event of voxd's own and each of its fields."""
    page = (Path(__file__).parents[2] / "docs" / "PROTOCOL.md").read_text(encoding="utf-8")
    structs = (*events.ClientEvent.__args__, *events.ServerEvent.__args__)
    ours = [struct for struct in structs if str(struct.__struct_config__.tag).startswith("voxd.")]
    fields = {name for struct in ours for name in struct.__struct_fields__} - {"event_id"}
    added = {name for struct in structs for name in struct.__struct_fields__ if name.startswith("voxd_")}
    names = [*(str(struct.__struct_config__.tag) for struct in ours), *sorted(fields | added)]

    assert len(ours) > 6
    assert [name for name in names if f"`{name}`" not in page] == []


def test_the_protocol_page_names_every_warning() -> None:
    root = Path(__file__).parents[2]
    source = "".join(path.read_text(encoding="utf-8") for path in sorted((root / "voxd").rglob("*.py")))
    told = r'(?:Notice, code=|Warned\([^"\n]*)"([a-z_]+)"'
    codes = set(re.findall(told, source))

    assert len(codes) > 6
    assert [code for code in sorted(codes) if f"`{code}`" not in (root / "docs" / "PROTOCOL.md").read_text()] == []


@pytest.mark.parametrize(
    "event", [events.Pong("e", "p", 1, 2, 3), events.Ack("e", 320, 0), events.Notice("e", "code", "text")]
)
def test_the_number_of_a_message_is_written_and_read_in_one_place(event: events.ServerEvent) -> None:
    """Set as a field or put into the bytes, the number gives the same bytes and is read alike."""
    counted = msgspec.structs.replace(event, voxd_seq=7)
    assert events.numbered(events.dump(event), 7) == events.dump(counted)
    assert events.parse_server(events.numbered(events.dump(event), 7)) == counted
    assert b"voxd_seq" not in events.dump(event)
