"""A file goes through voxtui and voxd to the tiny Voxtral, and comes out as what `generate()` says of that clip."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shared.audio import RATE, Float32, float_to_pcm16, pcm16_to_float
from shared.safe_text import safe_text
from tests.support.daemon import environment, voxd_process
from tests.support.speech import clip
from tests.support.tiny_mini import folder as mini_folder, reference as mini_reference
from tests.support.tiny_voxtral import folder, reference
from voxd.engine.vad import Vad
from voxd.session.terms import FILE_HANGOVER, FILE_THRESHOLD
from voxd.session.turns import Act, Mark, Rules, Turns


def utterance(samples: Float32, rules: Rules) -> Mark:
    """The place where the turn rules find the one utterance of a clip."""
    vad, turns = Vad(), Turns(rules)
    vad.open(0)
    vad.feed(0, float_to_pcm16(samples))
    marks: list[Mark] = []
    while vad.has_work:
        for heard in vad.step():
            for index, probability in enumerate(heard.probabilities):
                marks += turns.receive_frame(heard.start + 512 * index, probability)
    (ended,) = [mark for mark in marks if mark.act is Act.ENDED]
    return ended


@pytest.mark.slow
def test_a_clip_is_answered_as_generate_does_and_written_down_too(tmp_path: Path) -> None:
    """Voxtral Mini has both roles, and the turn rules find the turns."""
    samples = np.concatenate([np.zeros(RATE // 2), clip("librivox_austen_0870").samples(), np.zeros(2 * RATE)])
    samples = pcm16_to_float(float_to_pcm16(samples.astype(np.float32)))
    sound, config = tmp_path / "clip.wav", tmp_path / "config.yaml"
    soundfile.write(sound, samples, RATE, subtype="PCM_16")
    options = {"voxtral-mini": {"model": str(mini_folder(0, ends=True)), "device": "cpu", "max_conversations": 2}}
    config.write_text(json.dumps({"engine_options": options, "vad": {"silence_duration_ms": 700}}))
    engines = ("--transcribe", "voxtral-mini", "--respond", "voxtral-mini")
    with voxd_process("--config", str(config), *engines) as daemon:
        assert "Voxtral Mini on the CPU" in str(daemon.status()["notes"])
        command = [sys.executable, "-m", "voxtui", "connect", f"unix:{daemon.socket}", "--file", str(sound), "--plain"]
        done = subprocess.run(
            command, env=environment(tmp_path), capture_output=True, text=True, timeout=300, check=False
        )
    assert done.returncode == 0, done.stderr
    found, mark = mini_reference(0, ends=True), utterance(samples, Rules())
    heard = samples[mark.start : mark.end]
    prompts = {"voxd:": [1, 3, 25, *[24] * 375, 4], "you:": found.transcription(heard)}
    for who, prompt in prompts.items():
        token_ids = found.token_ids(prompt, [heard], 200, eos=2)
        assert len(set(token_ids)) > 5, "this clip proves nothing"
        pieces = [line.removeprefix(who) for line in done.stdout.splitlines() if line.startswith(who)]
        assert "".join("".join(pieces).split()) == "".join(safe_text(found.text(token_ids)).split())


def test_a_clip_comes_out_as_the_text_that_generate_gives(tmp_path: Path) -> None:
    samples = np.concatenate([np.zeros(RATE // 2), clip("librivox_austen_0870").samples(), np.zeros(2 * RATE)])
    samples = pcm16_to_float(float_to_pcm16(samples.astype(np.float32)))
    sound, config = tmp_path / "clip.wav", tmp_path / "config.yaml"
    soundfile.write(sound, samples, RATE, subtype="PCM_16")
    options = {"voxtral-realtime": {"model": str(folder(1)), "device": "cpu", "max_streams": 2}}
    config.write_text(json.dumps({"engine_options": options}))
    alone = {"OMP_NUM_THREADS": "1"}  # threads that wait for each other spin, which on a busy machine takes a minute
    with voxd_process("--config", str(config), "--transcribe", "voxtral-realtime", env=alone) as daemon:
        assert "Voxtral Realtime on the CPU" in str(daemon.status()["notes"])
        command = [sys.executable, "-m", "voxtui", "transcribe", str(sound), "--format", "json"]
        command += ["--target", f"unix:{daemon.socket}"]
        done = subprocess.run(
            command, env=environment(tmp_path), capture_output=True, text=True, timeout=300, check=False
        )
    assert done.returncode == 0, done.stderr
    (turn,) = json.loads(done.stdout)["turns"]
    found, mark = reference(1), utterance(samples, Rules(FILE_THRESHOLD, hangover=FILE_HANGOVER))
    token_ids = found.token_ids(samples[mark.start : mark.end])
    assert len(set(token_ids)) > 5, "this clip proves nothing"
    assert turn["text"].split() == safe_text(found.text(token_ids)).split()
