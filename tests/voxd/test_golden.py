"""Whole sessions on paper: tests/golden/*.jsonl holds inputs and, byte for byte, what came of each.

A line is `{"in": …}` (a client event, or an engine output as `{"engine": …}`), `{"event": …}` or `{"command": …}`.
After a wanted change of behaviour: `VOXD_WRITE_GOLDEN=1 pytest tests/voxd/test_golden.py`, and read the diff.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from shared import events
from shared.session_config import RealtimeSession
from tests.support.talk import SILENCE, SPEECH, STREAM, counting_ids
from voxd import messages as m
from voxd.session.core import Session
from voxd.session.terms import Profile
from voxd.session.turns import FRAME

FOLDER = Path(__file__).parents[1] / "golden"
Input = events.ClientEvent | m.Output


def heard(start: int, *probabilities: float) -> m.Heard:
    return m.Heard(STREAM, start * FRAME, probabilities)


def audio(frames: int) -> events.AudioAppend:
    return events.AudioAppend(audio=b"\0\0" * FRAME * frames)


SOUND = {"format": {"type": "audio/pcm", "rate": 16000}, "transcription": {}}
SCRIPTS: dict[str, list[Input]] = {
    "transcription": [
        events.SessionUpdate(
            session={"type": "transcription", "audio": {"input": SOUND}, "voxd": {"provisional": True}}
        ),
        audio(8),
        heard(0, SILENCE, *[SPEECH] * 7),
        m.Said(STREAM, 1, "", "He was"),
        audio(8),
        heard(8, *[SPEECH] * 4, *[SILENCE] * 4),
        m.Said(STREAM, 1, "He was", " not"),
        audio(16),
        heard(16, *[SILENCE] * 16),
        m.Settled(STREAM, 1, "completed", "He was not."),
    ],
    "conversation_with_barge_in": [
        events.SessionUpdate(session={"instructions": "Be brief.", "audio": {"input": SOUND}}),
        audio(30),
        heard(0, *[SPEECH] * 10, *[SILENCE] * 20),
        m.Said(STREAM, 2, "Well"),
        m.Settled(STREAM, 1, "completed", "Who is it?"),
        m.Said(STREAM, 2, ", I am"),
        audio(30),
        heard(30, *[SPEECH] * 10, *[SILENCE] * 20),
        m.Settled(STREAM, 2, "cancelled", "Well, I am"),
        m.Settled(STREAM, 3, "completed", "Stop."),
        m.Said(STREAM, 4, "Yes."),
        m.Settled(STREAM, 4, "completed", "Yes.", input_tokens=9, output_tokens=1),
    ],
    "push_to_talk_and_errors": [
        events.SessionUpdate(session={"audio": {"input": SOUND | {"turn_detection": None}}}),
        events.AudioCommit(event_id="too_early"),
        audio(20),
        heard(0, *[SPEECH] * 20),
        events.AudioCommit(),
        events.ResponseCreate(response=events.ResponseRequest(metadata={"a": "b"})),
        m.Said(STREAM, 2, "Hi"),
        events.ResponseCancel(),
        events.ResponseCancel(event_id="too_late"),
        m.Failed(STREAM, 1, "engine_error", "The engine failed in this turn; see voxd's log."),
    ],
}


def replay(script: list[Input]) -> Iterator[str]:
    """The lines of a golden file."""
    config = RealtimeSession(id="sess_1", model="")
    session = Session(STREAM, config, Profile("whisper", "echo"), counting_ids())
    yield from outputs(session)
    for each in script:
        if isinstance(each, m.StreamMessage):
            yield json.dumps({"in": {"engine": type(each).__name__, "fields": msgspec.to_builtins(each)[1:]}})
            session.receive_output(each)  # type: ignore[arg-type]  # the scripts hold outputs only
        else:
            data = events.dump(each)
            shown = json.loads(data)
            if "audio" in shown:
                shown["audio"] = f"{len(shown['audio'])} characters of base64"
            yield json.dumps({"in": shown})
            session.receive_event(events.parse_client(data))
        yield from outputs(session)


def outputs(session: Session) -> Iterator[str]:
    commands, _ = session.to_send()
    for event in iter(session.next_event, None):
        yield '{"event": ' + events.dump(event).decode() + "}"
    for command in commands:
        fields = msgspec.structs.asdict(command)
        if isinstance(command, m.Feed):
            fields["pcm"] = f"{len(command.pcm)} bytes"
        yield json.dumps({"command": type(command).__name__, "fields": msgspec.to_builtins(fields)})


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_golden_session_replays_byte_for_byte(name: str) -> None:
    path = FOLDER / f"{name}.jsonl"
    lines = "".join(f"{line}\n" for line in replay(SCRIPTS[name]))
    if os.environ.get("VOXD_WRITE_GOLDEN"):
        path.write_text(lines)

    assert lines == path.read_text()
