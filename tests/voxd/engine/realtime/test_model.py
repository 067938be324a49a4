"""The parts of the forward, each against transformers' own or librosa's; memory; checkpoints that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import librosa
import numpy as np
import pytest
import torch

from tests.support.tiny_voxtral import FRAME, RATE, folder, reference, speechlike
from voxd.engine.contract import Unusable
from voxd.engine.gpu.kv_cache import Rings, Slots
from voxd.engine.realtime.build import build, load, room_for
from voxd.engine.realtime.engine import VoxtralRealtime
from voxd.engine.realtime.frontend import Front
from voxd.engine.realtime.interface import RealtimeOptions
from voxd.engine.realtime.model import RealtimeCheckpoint, shapes_of, slot_bytes
from voxd.engine.realtime.runs import SPAN

torch.set_num_threads(1)


def quiet(text: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture(scope="module")
def front() -> Front:
    found = reference(0)
    return Front(found.processor.feature_extractor, found.model.model.audio_tower.embedder)


@torch.inference_mode()
def test_mel_frames_are_those_of_the_processor(front: Front) -> None:
    """They are the same wherever in the clip they are computed, since the front end has no state."""
    clip = speechlike(3.0, 4)
    whole = reference(0).processor.feature_extractor(clip, return_tensors="pt", sampling_rate=RATE).input_features[0]
    for first in (2, 50, 111, 250):
        low = first * 160 - 200
        mine = front.mel(torch.from_numpy(clip[low : low + SPAN])[None])[0]
        torch.testing.assert_close(mine, whole[:, first : first + 11].T, atol=2e-5, rtol=0)


@torch.inference_mode()
def test_mel_frames_are_those_of_librosa(front: Front) -> None:
    """librosa is another implementation of the same filterbank."""
    clip = speechlike(1.0, 4)
    power = np.abs(librosa.stft(clip, n_fft=400, hop_length=160, window="hann", center=False)) ** 2
    filters = librosa.filters.mel(sr=RATE, n_fft=400, n_mels=128, fmin=0, fmax=8000)
    log = np.log10(np.maximum(filters @ power, 1e-10))
    want = (np.maximum(log, 1.5 - 8.0) + 4.0) / 4.0
    mine = front.mel(torch.from_numpy(clip)[None])[0].T.numpy()
    np.testing.assert_allclose(mine, want[:, : mine.shape[1]], atol=2e-3)


@torch.inference_mode()
def test_encoder_inputs_are_those_of_the_embedder(front: Front) -> None:
    found, clip = reference(0), speechlike(3.0, 4)
    whole = np.concatenate([np.zeros(32 * FRAME, np.float32), clip])
    mel = found.processor.feature_extractor(whole, return_tensors="pt", sampling_rate=RATE).input_features
    want = found.model.model.audio_tower.embedder(mel)[0]
    torch.testing.assert_close(front.silence(31), want[:124], atol=2e-5, rtol=0)
    for position in (31, 32, 50):
        low = (position + 1) * FRAME + 40 - SPAN
        mine = front(torch.from_numpy(whole[low : low + SPAN])[None])
        torch.testing.assert_close(mine, want[4 * position : 4 * position + 4], atol=5e-5, rtol=0)


# ── memory ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_slot_is_given_once() -> None:
    slots = Slots(3)
    assert {slots.take(), slots.take()} == {1, 2}, "slot 0 is nobody's"
    assert slots.free == 0
    slots.give(2)
    for wrong in (0, 2, 3):
        with pytest.raises(ValueError, match="was not taken"):
            slots.give(wrong)
    assert slots.take() == 2


def test_a_template_is_the_beginning_of_each_ring() -> None:
    rings = Rings(2, 1, 4, slots=3, capacity=8)
    rings.k[:, 8:11] = torch.arange(24.0).view(2, 3, 1, 4)
    rings.copy_in(2, rings.copy_out(1, 3))
    assert torch.equal(rings.k[:, 16:19], torch.arange(24.0).view(2, 3, 1, 4))
    assert not rings.k[:, 19:].any()
    assert not rings.v.any()


def test_the_released_model_takes_what_the_design_says() -> None:
    """About 430 MB for two minutes of speech: the encoder's window and the decoder's whole history."""
    from transformers import VoxtralRealtimeConfig

    room = room_for(120, 32, 10)
    config = VoxtralRealtimeConfig(audio_config={}, text_config={})
    encoder, decoder = shapes_of(config, room)
    assert encoder[:3] == (32, 32, 64)
    assert decoder[:3] == (32, 8, 128)
    assert encoder.capacity >= 750 - 1 + 4 * (room.slack + 1)
    assert decoder.capacity >= 32 + 130 * 12.5 + room.slack
    size = slot_bytes(config, room, torch.bfloat16)
    assert size == encoder.capacity * 262_144 + decoder.capacity * 106_496
    assert 410e6 < size < 440e6


# ── checkpoints ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_special_ids_are_read_from_the_tokenizer(tmp_path: Path) -> None:
    """mistral-common's own tests have other ids than the released model."""
    other = tmp_path / "other"
    copytree(folder(0), other)
    tokenizer = json.loads((other / "tekken.json").read_text())
    names = tokenizer["special_tokens"]
    names[32]["token_str"], names[40]["token_str"] = names[40]["token_str"], names[32]["token_str"]
    (other / "tekken.json").write_text(json.dumps(tokenizer))
    special = RealtimeCheckpoint.load(str(other), "cpu", torch.float32, quiet).special
    assert (special.bos, special.pad) == (1, 40)
    assert (special.left, special.tail, special.delay) == (32, 10, 6)


def refusal(model: str) -> str:
    with pytest.raises(Unusable) as refused:
        load(RealtimeOptions(model=model, device="cpu"), quiet, eager=True)
    return str(refused.value)


def test_a_model_that_was_not_pulled_is_not_downloaded() -> None:
    told = "there is no model 'nobody/nothing' on this machine; get it with: voxd pull nobody/nothing"
    assert refusal("nobody/nothing") == told


@pytest.mark.parametrize(
    ("config", "told"),
    [("{}", "cannot be read (Unrecognized model"), ('{"model_type": "whisper"}', "is not a Voxtral Realtime model")],
)
def test_a_folder_with_something_else_in_it_is_named(tmp_path: Path, config: str, told: str) -> None:
    (tmp_path / "config.json").write_text(config)
    assert told in refusal(str(tmp_path))
    assert str(tmp_path) in refusal(str(tmp_path))


@pytest.mark.parametrize("missing", ["tekken.json", "processor_config.json", "model.safetensors"])
@pytest.mark.parametrize("cut", [True, False])
def test_a_model_that_is_not_whole_is_one_sentence(tmp_path: Path, missing: str, cut: bool) -> None:
    other = tmp_path / "torn"
    copytree(folder(0), other)
    part = other / missing
    whole = part.read_bytes()
    part.unlink()
    if cut:
        part.write_bytes(whole[: len(whole) // 2])
    told = refusal(str(other))
    assert "it may be incomplete" in told
    assert "\n" not in told


def test_weights_that_are_not_safetensors_are_not_read(tmp_path: Path) -> None:
    other = tmp_path / "pickled"
    copytree(folder(0), other)
    (other / "model.safetensors").rename(other / "pytorch_model.bin")
    assert "cannot be read" in refusal(str(other))


def test_without_memory_for_one_stream_it_says_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voxd.engine.realtime.build.free_memory", lambda device: 1000)
    checkpoint = RealtimeCheckpoint.load(str(folder(0)), "cpu", torch.float32, quiet)
    with pytest.raises(Unusable, match="max_history_s"):
        build(checkpoint, RealtimeOptions(), quiet, eager=True)


def test_the_user_is_told_which_path_is_in_use() -> None:
    notes = load(RealtimeOptions(model=str(folder(0)), device="cpu", max_streams=2), quiet, eager=True).notes
    assert notes == ("Voxtral Realtime on the CPU, float32, step by step", "room for 2 streams of 120 s")


@pytest.mark.parametrize(("value", "eager"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_voxd_eager_switches_the_graphs_off(monkeypatch: pytest.MonkeyPatch, value: str | None, eager: bool) -> None:
    asked: list[bool] = []
    monkeypatch.setattr("voxd.engine.realtime.build.load", lambda *given, eager, streams: asked.append(eager))
    monkeypatch.delenv("VOXD_EAGER", raising=False)
    if value is not None:
        monkeypatch.setenv("VOXD_EAGER", value)
    with pytest.raises(AttributeError):  # there is no device
        VoxtralRealtime({}, lambda: None).load(quiet)
    assert asked == [eager]
