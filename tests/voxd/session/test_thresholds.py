"""`server_vad` at every threshold that may be asked for, over real speech with the real network: a turn begins where it
can, and every turn that began ends."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from shared import events
from shared.audio import RATE, VAD_FRAME, Float32, float_to_pcm16
from shared.session_config import ServerVad
from tests.support.speech import clip
from tests.support.talk import Desk
from voxd.engine.vad import Vad

pytest.importorskip("onnxruntime", reason="the VAD's runtime is not installed")
THRESHOLDS = (0.0, 0.05, 0.15, 0.3, 0.5, 0.9, 1.0)
CLIPS = ("librivox_austen_0880", "ps_goforward", "cv_en_22058266")
ROOMS = {"silence": 0.0, "a fan": 0.003}  # RMS


def noise(seconds: float, rms: float) -> Float32:
    return (np.random.default_rng(1).standard_normal(int(seconds * RATE)) * rms).astype(np.float32)


@cache
def heard(name: str, rms: float) -> tuple[float, ...]:
    """The network's word on a clip in a room, with 2 s of the room before and 5 s behind it."""
    speech = clip(name).samples()
    whole = np.concatenate([noise(2, rms), speech + noise(len(speech) / RATE + 1, rms)[: len(speech)], noise(5, rms)])
    vad = Vad()
    vad.open(1)
    vad.feed(1, float_to_pcm16(whole[: len(whole) // VAD_FRAME * VAD_FRAME]))
    found: list[float] = []
    while vad.has_work:
        for each in vad.step():
            found += each.probabilities
    return tuple(found)


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_a_turn_begins_and_ends(threshold: float, name: str, room: str) -> None:
    desk = Desk("transcription", turn_detection={"type": "server_vad", "threshold": threshold})
    detection = desk.last(events.SessionUpdated).session.audio.input.turn_detection
    assert isinstance(detection, ServerVad)
    assert 0.05 <= detection.threshold <= 0.95
    assert detection.threshold == pytest.approx(min(max(threshold, 0.05), 0.95))

    probabilities = heard(name, ROOMS[room])
    for each in probabilities:
        desk.speak(1, each)

    begun, ended = desk.all(events.SpeechStarted), desk.all(events.SpeechStopped)
    able = sum(each >= detection.threshold for each in probabilities) > 5
    assert bool(begun) or not able
    assert len(ended) == len(begun), "every turn is over before the silence behind it is"
    assert [each.item_id for each in ended] == [each.item_id for each in begun]
