"""What `auto` means for each role: the best that can run here, and what speaks against each better one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.imports import loaded_after
from voxd.engine import auto
from voxd.engine.realtime import presence

WEIGHTS = {"voxtral-mini": {"model": ""}, "voxtral-realtime": {"model": ""}}


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, object]]:
    """A machine with a GPU and the weights of both Voxtrals, by the look of it: options that name them."""
    monkeypatch.setattr(presence, "GPU", (tmp_path,))
    monkeypatch.setattr(presence, "NEEDS", ())
    (tmp_path / "config.json").write_text("{}")
    return {name: {"model": str(tmp_path)} for name in WEIGHTS}


@pytest.fixture
def llama(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama and its weights are there."""
    monkeypatch.setattr(auto, "_no_llama", lambda options: None)


CHAT = {"cascade": {"url": "http://localhost:8080/v1"}}


@pytest.mark.usefixtures("llama")
def test_the_best_that_can_answer_is_taken(gpu: dict[str, dict[str, object]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert auto.responder("auto", True, {**gpu, **CHAT}, {}) == auto.Choice(
        "voxtral-mini", "auto chose Voxtral Mini on the GPU"
    )
    gpu["voxtral-mini"] = {"model": "/nowhere"}
    chosen = auto.responder("auto", True, {**gpu, **CHAT}, {})
    assert chosen.name == "cascade"
    assert "voxd pull /nowhere" in chosen.why
    monkeypatch.setattr(presence, "GPU", ())
    assert auto.responder("auto", True, CHAT, {}).name == "cascade"
    chosen = auto.responder("auto", True, {}, {})
    assert chosen.name == "llama"
    assert chosen.detail == (
        "not Voxtral Mini: there is no NVIDIA GPU; no chat server: engine_options.cascade.url names none"
    )


def test_where_nothing_can_answer_each_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "GPU", ())
    monkeypatch.setattr(auto, "_no_llama", lambda options: "needs xllamacpp; install it with: pip ...")
    chosen = auto.responder("auto", True, {}, {})
    assert chosen.name is None
    for reason in ("NVIDIA GPU", "engine_options.cascade.url", "needs xllamacpp"):
        assert reason in chosen.why


@pytest.mark.usefixtures("llama")
def test_what_reads_is_not_taken_where_nobody_writes(gpu: dict[str, dict[str, object]]) -> None:
    assert auto.responder("auto", False, {**gpu, **CHAT}, {}).name == "voxtral-mini"
    found = auto.responder("auto", False, CHAT, {})
    assert found.name is None
    assert "engines.transcribe" in found.why


@pytest.mark.parametrize(("name", "meant"), [("none", None), ("echo", "echo"), ("llama", "llama")])
def test_what_is_named_is_meant_and_needs_no_words(name: str, meant: str | None) -> None:
    assert auto.responder(name, True, {}, {}) == auto.Choice(meant)
    assert auto.transcriber(name, {}, {}) == auto.Choice(meant)


def test_the_transcriber_is_voxtral_or_whisper(
    gpu: dict[str, dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert auto.transcriber("auto", gpu, {}) == auto.Choice(
        "voxtral-realtime", "auto chose Voxtral Realtime on the GPU"
    )
    monkeypatch.setattr(presence, "GPU", ())
    chosen = auto.transcriber("auto", gpu, {})
    assert (chosen.name, chosen.detail) == ("whisper", "not Voxtral Realtime: there is no NVIDIA GPU")


def test_looking_imports_nothing_heavy() -> None:
    loaded = loaded_after("from voxd.engine import auto; auto.responder('auto', True, {}, {})")
    assert {"torch", "transformers", "huggingface_hub", "xllamacpp"} & loaded == set()
