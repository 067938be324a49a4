"""Numbers, names and shapes that no client means are errors that name the field, and change nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from shared import events
from shared.events import WireError
from shared.refusals import QUOTED
from tests.support.talk import Desk
from voxd.framing import encode
from voxd.session.terms import Profile

HUGE = [10**29, -(10**29), 2**64, 2**63, -1, 10**400, 1e308, "x" * 100_000, "\0" * 1000, [], [[]], {}, {"a": []}, True]
LEAVES: list[tuple[str, dict[str, Any]]] = [
    ("max_output_tokens", {"type": "response.create", "response": {"max_output_tokens": 1}}),
    ("metadata", {"type": "response.create", "response": {"metadata": {"a": "b"}}}),
    ("conversation", {"type": "response.create", "response": {"conversation": "none"}}),
    ("voxd_offset", {"type": "input_audio_buffer.append", "audio": "AAAA", "voxd_offset": 1}),
    ("audio", {"type": "input_audio_buffer.append", "audio": "AAAA"}),
    ("event_id", {"type": "input_audio_buffer.clear", "event_id": "e"}),
    ("type", {"type": "input_audio_buffer.clear"}),
    ("ping_id", {"type": "voxd.ping", "ping_id": "e"}),
    ("t0", {"type": "voxd.ping", "t0": 1}),
    ("item_id", {"type": "conversation.item.retrieve", "item_id": "e"}),
    ("item_id", {"type": "conversation.item.delete", "item_id": "e"}),
    ("item_id", {"type": "conversation.item.truncate", "item_id": "e", "content_index": 0, "audio_end_ms": 1}),
    ("audio_end_ms", {"type": "conversation.item.truncate", "item_id": "e", "content_index": 0, "audio_end_ms": 1}),
    ("response_id", {"type": "response.cancel", "response_id": "e"}),
    ("id", {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": [], "id": "a"}}),
    ("role", {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": []}}),
    ("delay", {"type": "session.update", "session": {"audio": {"input": {"transcription": {"delay": "low"}}}}}),
    (
        "voxd",
        {"type": "session.update", "session": {"audio": {"input": {"transcription": {"delay": "low"}}}, "voxd": {}}},
    ),
    ("delay_ms", {"type": "session.update", "session": {"voxd": {"delay_ms": 80}}}),
    ("rate", {"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 1}}}}}),
    ("type", {"type": "session.update", "session": {"type": "realtime"}}),
    ("session", {"type": "session.update", "session": {}}),
    ("threshold", {"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"threshold": 1}}}}}),
    ("max_output_tokens", {"type": "session.update", "session": {"max_output_tokens": 1}}),
    ("speed", {"type": "session.update", "session": {"audio": {"output": {"speed": 1}}}}),
    ("tools", {"type": "session.update", "session": {"tools": []}}),
    ("model", {"type": "session.update", "session": {"audio": {"input": {"transcription": {"model": "a"}}}}}),
]


def put(tree: Any, leaf: str, value: Any) -> Any:
    """`tree` with `value` at the innermost field `leaf`."""
    if not isinstance(tree, dict):
        return tree
    inner = {key: put(each, leaf, value) for key, each in tree.items()}
    return inner | {leaf: value} if leaf in tree and inner == tree else inner


def absurd() -> Iterator[tuple[str, str]]:
    for leaf, event in LEAVES:
        for value in HUGE:
            spoiled = put(event, leaf, value)
            yield f"{event['type']} {leaf}={str(value)[:24]}", json.dumps(spoiled)
        digits = json.dumps(put(event, leaf, "DIGITS")).replace('"DIGITS"', "9" * 5000)
        yield f"{event['type']} {leaf}=5000 digits", digits


@pytest.mark.parametrize("kind", ["realtime", "transcription"])
def test_whatever_stands_in_a_field_the_session_lives_and_can_be_written(kind: str) -> None:
    desk = Desk(kind, Profile("echo", "echo"))
    for what, text in absurd():
        before = len(desk.events), len(desk.commands)
        try:
            event = events.parse_client(text)
        except WireError as error:
            desk.session.receive_error(error)
        else:
            desk.session.receive_event(event)
        desk.drain()
        for told in desk.events[before[0] :]:
            data = events.dump(told)
            if isinstance(told, events.Error):
                assert len(data) < 12 * QUOTED, what
        for command in desk.commands[before[1] :]:
            encode(command)
    desk.send(events.SessionUpdate(session={}))
    assert isinstance(desk.events[-1], events.SessionUpdated | events.Notice)


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ('{"type":"response.create","response":{"max_output_tokens":%s}}' % 10**29, "response.max_output_tokens"),
        ('{"type":"response.create","response":{"max_output_tokens":-1}}', "response.max_output_tokens"),
        ('{"type":"response.create","response":{"max_output_tokens":0}}', "response.max_output_tokens"),
        ('{"type":"input_audio_buffer.append","audio":"","voxd_offset":-5}', "voxd_offset"),
        ('{"type":"input_audio_buffer.append","audio":"","voxd_offset":%s}' % 10**17, "voxd_offset"),
        ('{"type":"voxd.ping","t0":[]}', "t0"),
        (
            '{"type":"conversation.item.create","item":{"type":"message","role":"user",'
            '"content":[{"type":"input_audio","audio":"@"}]}}',
            "item.content[0].audio",
        ),
        ('{"type":"conversation.item.delete","item_id":"%s"}' % ("x" * 513), "item_id"),
    ],
)
def test_the_field_is_named(text: str, param: str) -> None:
    with pytest.raises(WireError) as caught:
        events.parse_client(text)
    assert (caught.value.code, caught.value.param) == ("invalid_value", param)
