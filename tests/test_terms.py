"""What was agreed between a client and this server, and what is said when it is not as asked for."""

from __future__ import annotations

import pytest

from shared import events
from tests.talk import Desk
from voxd.session import Profile


def test_a_client_that_opted_in_is_told_what_is_not_as_asked_for() -> None:
    asked = {
        "output_modalities": ["audio"],
        "audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}}},
    }
    shy, aware = Desk("realtime"), Desk("realtime", resume=True)
    for desk in (shy, aware):
        desk.send(events.SessionUpdate(session=asked))

    assert shy.all(events.Notice) == []
    assert [notice.code for notice in aware.all(events.Notice)] == ["model_mapped", "modality_coerced"]


@pytest.mark.parametrize(
    ("session", "code"),
    [
        ({"output_modalities": ["audio"]}, "invalid_value"),
        ({"audio": {"input": {"transcription": {"model": "whisper-1"}}}}, "model_not_found"),
    ],
)
def test_a_strict_server_refuses_it(session: dict[str, object], code: str) -> None:
    desk = Desk("realtime", Profile("echo", "echo", strict_models=True, strict_modalities=True))
    before = desk.session.config
    desk.send(events.SessionUpdate(session=session))

    assert desk.last(events.Error).error.code == code
    assert desk.session.config == before
