"""The properties of tests/voxd/session/test_properties.py, tried on thousands of sessions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from tests.voxd.session.test_properties import ANSWERS, COMMON, PROFILES, Op, Player, scripts
from voxd.session.terms import Profile

pytestmark = [pytest.mark.slow]


@settings(deadline=None, max_examples=4000)
@given(scripts(*COMMON, *ANSWERS), PROFILES)
def test_conversations_keep_their_promises(script: list[Op], profile: Profile) -> None:
    player = Player("realtime", profile)
    player.play(script)
    player.finish(transcribed=True)


@settings(deadline=None, max_examples=4000)
@given(scripts(*COMMON))
def test_transcriptions_keep_their_promises(script: list[Op]) -> None:
    player = Player("transcription", Profile("echo", None))
    player.play(script)
    player.finish(transcribed=True)
