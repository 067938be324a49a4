"""A person's own settings: the file, what the command line says instead, and where things lie."""

from __future__ import annotations

import sys
from pathlib import Path

import platformdirs
import pytest
from click.testing import CliRunner

from shared.config import ConfigError
from tests.support.imports import loaded_after
from voxtui import cli, settings
from voxtui.commands import local, plain
from voxtui.settings import Settings, Targets, load, transcripts_folder


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(platformdirs, "user_config_path", lambda *_, **__: tmp_path / "config")
    monkeypatch.setattr(platformdirs, "user_data_path", lambda *_, **__: tmp_path / "data")
    path = tmp_path / "config" / "config.yaml"
    path.parent.mkdir()
    return path


def test_without_a_file_there_are_defaults(file: Path) -> None:
    assert load() == Settings()
    assert transcripts_folder(Settings()) == file.parent.parent / "data" / "transcripts"


def test_every_key(file: Path) -> None:
    file.write_text(
        "target: ubuntu@gpu\nlanguage: de\ninstructions: Be brief.\nsilence_ms: 700\ndelay_ms: 240\ndevice: 3\n"
        "theme: light\nhands_free: false\nkeep: false\nkeep_in: /tmp/x\ntargets:\n  ttft_user_ms: 300\n"
    )
    wanted = Settings(
        "ubuntu@gpu", "de", "Be brief.", 700, 240, 3, "light", False, False, "/tmp/x", Targets(ttft_user_ms=300)
    )
    assert load() == wanted
    assert transcripts_folder(wanted) == Path("/tmp/x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("silense_ms: 700", "1:1: silense_ms: unknown key (did you mean silence_ms?)"),
        ("theme: blue", "1:1: theme: expected one of dark, light, got 'blue'"),
        ("\nsilence_ms: 5", "2:1: silence_ms: expected an integer from 160 to 10000, got 5"),
        ("targets: 5", "targets: expected a mapping"),
        ("language: klingon", "config.yaml: language: 'klingon' names no language: give a code such as 'en' or 'de'"),
    ],
)
def test_a_mistake_is_told_with_its_place(file: Path, text: str, words: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load()
    assert words in str(error.value)
    found = CliRunner().invoke(cli.main, ["connect", "unix:/tmp/none.sock", "--plain"])
    assert found.exit_code == cli.USAGE
    assert words in found.output


def test_the_command_line_goes_first(file: Path) -> None:
    file.write_text("silence_ms: 700\ntheme: light")
    found = cli._settings({"silence_ms": 300, "theme": None, "keep": False, "hands_free": None})
    assert (found.silence_ms, found.theme, found.keep, found.hands_free) == (300, "light", False, True)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("english", "en"), ("EN", "en"), ("en-US", "en"), ("pt_BR", "pt"), ("Deutsch", "de"), ("auto", ""), ("", "")],
)
def test_a_language_is_what_people_mean_by_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, written: str, meant: str
) -> None:
    """In the file and on the command line alike; what is said there goes before the file."""
    file.write_text(f"language: {written!r}")
    assert (load().language or "") == meant
    file.write_text("language: fr")
    found = []
    monkeypatch.setattr(plain, "talk", lambda address, token, wishes, *more, **rest: found.append(wishes.language))
    monkeypatch.setattr(local, "at", lambda address, told, work, private: work(address))
    monkeypatch.setattr(cli, "_finish", lambda work: sys.exit(0))
    CliRunner().invoke(cli.main, ["connect", "--plain", "--language", written, "unix:/tmp/none.sock"])
    assert found == [meant]


@pytest.mark.parametrize("command", [["connect", "--plain"], ["connect"], ["transcribe", __file__]])
@pytest.mark.parametrize("written", ["klingon", "xx", "e", "en;de", "\x1b[2J"])
def test_a_language_that_is_none_is_told_before_anything_is_sent(file: Path, command: list[str], written: str) -> None:
    found = CliRunner().invoke(cli.main, [*command, "--language", written])
    assert found.exit_code == cli.USAGE
    assert "names no language: give a code such as 'en' or 'de'" in " ".join(found.output.split())
    assert "\x1b" not in found.output


def test_a_delay_that_no_model_has(file: Path) -> None:
    found = CliRunner().invoke(cli.main, ["connect", "unix:/tmp/none.sock", "--delay-ms", "100"])
    assert found.exit_code == cli.USAGE
    assert "multiples of 80" in found.output


def test_a_target_can_be_settled_for_good(file: Path) -> None:
    file.write_text("target: unix:/tmp/there-is-none.sock\nkeep: false")
    found = CliRunner().invoke(cli.main, ["connect", "--plain", "--file", str(Path(__file__))])
    assert "cannot be read as sound" in found.output


def test_help_loads_nothing_heavy() -> None:
    found = loaded_after(
        "from click.testing import CliRunner\nfrom voxtui import cli\n"
        "[CliRunner().invoke(cli.main, [*command, '--help']) for command in ([], ['connect'], ['bench'], ['doctor'])]"
    )
    assert "voxtui.cli" in found
    heavy = {"textual", "rich", "librosa", "numpy", "aiortc", "torch", "websockets", "sounddevice", "soundfile"}
    assert not found & heavy


def test_names_of_the_file_and_of_the_options_are_the_same() -> None:
    options = {option.name for option in cli.connect.params}
    assert set(Settings.__struct_fields__) - options == {"targets", "keep_in"}
    assert settings.settings_file().name == "config.yaml"
