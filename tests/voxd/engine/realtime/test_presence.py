"""What `auto` looks at: a GPU, the extra, the weights; and what it says when one is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.daemon import voxd_process
from tests.support.imports import loaded_after
from voxd.cli import main
from voxd.engine.realtime import presence
from voxd.engine.realtime.presence import why_not


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this look like a machine with a GPU."""
    monkeypatch.setattr(presence, "GPU", (tmp_path,))


def test_without_a_gpu_it_is_whisper_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "GPU", ())
    assert why_not({}, {}) == "there is no NVIDIA GPU"


@pytest.mark.usefixtures("gpu")
def test_weights_may_be_in_a_folder_or_in_the_hubs_cache(tmp_path: Path) -> None:
    home = {"HF_HOME": str(tmp_path)}
    assert why_not({"model": "me/tiny"}, home) == "its weights are not here: voxd pull me/tiny"
    pinned = tmp_path / "hub" / "models--me--tiny" / "refs"
    pinned.mkdir(parents=True)
    (pinned / "main").write_text("c0ffee")
    assert why_not({"model": "me/tiny"}, home) is None
    (tmp_path / "config.json").write_text("{}")
    assert why_not({"model": str(tmp_path)}, {}) is None


@pytest.mark.usefixtures("gpu")
def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "NEEDS", ("no_such_module",))
    assert why_not({}, {}) == "the extra `voxtral` is not installed"


@pytest.mark.usefixtures("gpu")
def test_wrong_options_are_refused_and_no_reason_for_another_engine(tmp_path: Path) -> None:
    """A misspelt option must not turn a service with a GPU into one that uses whisper."""
    config = tmp_path / "config.yaml"
    config.write_text("engine_options: {voxtral-realtime: {speed: 1}}\n")
    done = CliRunner().invoke(main, ["start", "--config", str(config), "--check"])

    assert done.exit_code == 78
    assert "voxtral-realtime.speed: unknown key" in done.output


def test_looking_imports_nothing_heavy() -> None:
    loaded = loaded_after("from voxd.engine.realtime.presence import why_not; why_not({}, {})")
    assert {"torch", "transformers", "huggingface_hub"} & loaded == set()


def test_a_daemon_on_auto_says_what_it_chose_and_why() -> None:
    with voxd_process(ready=False) as daemon:
        daemon.until_ready()
        assert "auto chose" in str(daemon.status()["notes"])
