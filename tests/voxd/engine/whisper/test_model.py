"""The model behind the embedded CPU engine: options, weights, decodes; and the engine with the real model on clips."""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from shared.audio import RATE, Float32
from tests.support.imports import loaded_after
from tests.support.speech import FOLDER, clip
from voxd.engine.agreement import split
from voxd.engine.conformance import Conformance
from voxd.engine.contract import Engine, Unusable
from voxd.engine.vad import Vad
from voxd.engine.whisper import model
from voxd.engine.whisper.engine import Whisper
from voxd.engine.whisper.model import (
    CARRIER,
    Task,
    WhisperOptions,
    confidences,
    find_weights,
    repeats,
    word_ends,
    words_heard,
)
from voxd.messages import Close, Commit, Failed, Feed, Onset, Open, Output, Said, Settled


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"modell": "tiny.en"}, ("modell", "partial_interval_ms")),
        ({"beam_size": "5"}, ("beam_size", "1 to 10")),
        ({"beam_size": True}, ("beam_size", "1 to 10")),
        ({"workers": -1}, ("workers", "0 to 64")),
        ({"compute_type": "int4"}, ("compute_type", "int8")),
        ({"model": 3}, ("model", "tiny.en")),
        ({"max_streams": 0}, ("max_streams", "1 to 1024")),
    ],
)
def test_wrong_options_are_named_with_what_is_allowed(options: dict[str, object], words: tuple[str, ...]) -> None:
    with pytest.raises(Unusable) as refused:
        Whisper(options, lambda: None)
    assert all(word in str(refused.value) for word in (f"engine_options.whisper.{next(iter(options))}", *words))


def test_zero_means_by_the_number_of_cores() -> None:
    found = {cores: WhisperOptions().resolved(cores) for cores in (1, 2, 8, 64)}
    assert {n: (o.workers, o.threads) for n, o in found.items()} == {1: (1, 1), 2: (1, 2), 8: (4, 2), 64: (8, 2)}
    assert WhisperOptions(workers=3, threads=5).resolved(2) == WhisperOptions(workers=3, threads=5)


def test_a_configured_folder_goes_first(tmp_path: Path) -> None:
    assert find_weights(str(tmp_path), lambda text: None) == tmp_path
    with pytest.raises(Unusable, match="there is no folder"):
        find_weights(str(tmp_path / "none"), lambda text: None)


def carrier(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> None:
    spec = folder and SimpleNamespace(submodule_search_locations=[str(folder)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)


def test_a_carrier_with_other_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.bin").write_bytes(b"not it")
    carrier(monkeypatch, tmp_path)
    with pytest.raises(Unusable, match=r"model\.bin is not the file .* reinstall"):
        find_weights("tiny.en", lambda text: None)


def test_a_carrier_with_the_right_bytes_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    hashes = {}
    for name in model.CARRIER_SHA256:
        (tmp_path / "model" / name).write_bytes(name.encode())
        hashes[name] = hashlib.sha256(name.encode()).hexdigest()
    monkeypatch.setattr(model, "CARRIER_SHA256", hashes)
    carrier(monkeypatch, tmp_path)
    assert find_weights("tiny.en", lambda text: None) == tmp_path / "model"


@pytest.mark.parametrize(
    ("error", "told"),
    [(OSError("no route"), "could not be downloaded|cannot be downloaded"), (ValueError("x"), "no known model")],
)
def test_a_failing_download_says_what_to_do(error: Exception, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    utils = pytest.importorskip("faster_whisper.utils")

    def fail(name: str) -> str:
        raise error

    monkeypatch.setattr(utils, "download_model", fail)
    carrier(monkeypatch, None)
    with pytest.raises(Unusable, match=told):
        find_weights("tiny.en", lambda text: None)


def test_loops_are_told_from_speech() -> None:
    assert repeats("fire " * 50)
    assert not repeats("It was the best of times, it was the worst of times, it was the age of wisdom.")
    assert not repeats("")


def test_a_word_is_as_sure_as_its_least_sure_letter() -> None:
    text = " Howdy, Mary!"
    assert confidences(text, split(text), [4, 6, 7, 12, 13], [0.2, 0.8, 0.1, 0.9, 0.3]) == [0.2, 0.9]
    assert confidences("", [], [], []) == []


def test_words_end_where_the_attention_goes_on_to_the_next() -> None:
    tokens, letters = [0, 1, 2, 3], ["How", "dy", ",", " Mary"]
    times = [(0, 5), (0, 6), (1, 20), (2, 30), (3, 41), (3, 50), (4, 70), (4, 80)]
    found = word_ends([" Howdy,", " Mary"], tokens, times, lambda some: "".join(letters[n] for n in some))
    assert found == pytest.approx([0.6, 1.4]), "punctuation is not spoken"


@pytest.mark.parametrize(
    ("ends", "heard"),
    [
        ([], 0),
        ([0.3, 0.7, 1.2, 1.9], 4),
        ([0.3, 0.7, 1.2, 2.4], 4),  # the model guesses a word that is being said
        ([0.3, 0.7, 2.9, 3.0], 2),  # it goes on in the silence behind
        ([0.3, 0.7, 0.7, 0.7, 0.7, 1.1], 2),  # it begins again, without sound
    ],
)
def test_words_without_sound_are_not_heard(ends: list[float], heard: int) -> None:
    assert words_heard(ends, 2.0) == heard


def test_importing_the_engine_imports_no_model() -> None:
    loaded = loaded_after("import voxd.engine.whisper.engine")
    assert {"faster_whisper", "ctranslate2", "onnxruntime"} & loaded == set()


# ── the real model ──────────────────────────────────────────────────────────────────────────────────────────────────

real = pytest.mark.skipif(
    importlib.util.find_spec("faster_whisper") is None or importlib.util.find_spec(CARRIER) is None,
    reason="faster-whisper or the weights of tiny.en (the extra `whisper`) are not installed",
)


@pytest.fixture(scope="module")
def tiny() -> model.FasterWhisper:
    return model.load_model(WhisperOptions().resolved(2), lambda text: None)


def transcribe(engine: Whisper, samples: Float32, wake: threading.Event) -> tuple[str, list[Output]]:
    """A clip as fast as it goes: onset at its first sample, commit at its last."""
    vad, outputs = Vad(), list[Output]()
    engine.receive(Open(1, ("transcribe",)))
    vad.open(1)
    pcm = (samples * 32768).astype("<i2").tobytes()
    engine.receive(Feed(1, 0, pcm))
    vad.feed(1, pcm)
    engine.receive(Onset(1, 1, 0))
    while vad.has_work:
        for heard in vad.step():
            engine.receive(heard)
    engine.receive(Commit(1, 1, samples.size))
    while not any(isinstance(output, Settled | Failed) for output in outputs):
        outputs += engine.step(0)
        if not outputs or not isinstance(outputs[-1], Settled):
            assert wake.wait(60)
            wake.clear()
    engine.receive(Close(1))
    return next(output.text for output in outputs if isinstance(output, Settled)), outputs


@real
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("arctic_slt_a0009", "He turned sharply and faced"),
        ("two_cities_2", "It was the age of wisdom, it was the age of foolishness."),
    ],
)
def test_real_speech_becomes_its_text(name: str, text: str, tiny: model.FasterWhisper) -> None:
    wake = threading.Event()
    engine = Whisper({}, wake.set, lambda options, progress: tiny)
    notes = engine.load(lambda text: None)
    try:
        found, outputs = transcribe(engine, clip(name).samples(), wake)
    finally:
        engine.stop()
    assert found.startswith(text)
    assert found == "".join(output.text for output in outputs if isinstance(output, Said))
    assert "tiny.en" in notes[0]


@real
def test_silence_and_noise_become_nothing(tiny: model.FasterWhisper) -> None:
    wake = threading.Event()
    engine = Whisper({}, wake.set, lambda options, progress: tiny)
    engine.load(lambda text: None)
    noise = np.random.default_rng(1).normal(0, 0.02, 8 * RATE).astype(np.float32)
    try:
        assert transcribe(engine, np.zeros(8 * RATE, np.float32), wake)[0] == ""
        assert transcribe(engine, noise, wake)[0] == ""
    finally:
        engine.stop()


@real
@pytest.mark.parametrize("name", ["ps_goforward", "cv_en_22058266", "ps_cards_002"])
def test_a_beginning_is_not_heard_twice(name: str, tiny: model.FasterWhisper) -> None:
    """In a short window the model says the words of a short sound again and again; they have no sound of their own."""
    samples = clip(name).samples()
    for end in range(RATE // 2, samples.size, RATE // 4):
        found = tiny.decode(Task(samples[:end], "en", live=True))
        said = [word.strip(" .,!?").casefold() for word in found.words]
        assert len(said) <= 2 + 4 * end / RATE, found
        assert list(found.ends) == sorted(found.ends)
        assert max(found.ends, default=0.0) <= end / RATE + 0.5


@real
def test_the_models_words_come_with_their_probability(tiny: model.FasterWhisper) -> None:
    found = tiny.decode(Task(clip("librivox_austen_0870").samples(), "en"))
    assert len(found.words) == len(found.sure) == 22
    assert all(0 < sure <= 1 for sure in found.sure)
    assert sum(found.sure) / 22 > 0.8


@pytest.mark.slow
@real
class TestPromises(Conformance):
    """What `voxd.engine.contract` promises, with the real model on a real clip."""

    clip = FOLDER / "librivox_austen_0920.flac"

    def make_engine(self, wake: Callable[[], None]) -> Engine:
        return Whisper({}, wake)
