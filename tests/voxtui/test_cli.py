"""voxtui.cli: which command does what, exit codes, and what a start costs."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from tests.support.fakes import FakeVoxd, refusal, short_folder, utterance
from voxtui import cli


def invoke(*args: str, **environ: str) -> tuple[int, str]:
    found = CliRunner().invoke(cli.main, args, env={"VOXD_TOKEN": "", **environ})
    return found.exit_code, found.output


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No voxd of this user runs."""
    with short_folder() as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
        monkeypatch.setenv("HOME", str(folder))
    clip = tmp_path / "clip.wav"
    soundfile.write(clip, np.zeros(1600, np.float32), 16_000)
    return clip


def test_help_names_commands_targets_and_exit_codes() -> None:
    code, text = invoke("--help")
    assert code == 0
    assert all(word in text for word in ("connect", "transcribe", "devices", "demo", "unix:/path", "69", "77"))


@pytest.mark.parametrize("args", [[], ["--plain"], ["connect", "--plain"]])
def test_connect_is_the_default(nowhere: Path, args: list[str]) -> None:
    """Here it ends with: nobody there, since output is no terminal."""
    code, text = invoke(*args, "--file", str(nowhere))
    assert code == cli.UNREACHABLE
    assert "voxtui: No voxd is running at unix:" in text
    assert "voxd start" in text


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["me@host:22"], cli.USAGE, "ssh://"),
        (["connect", "ftp://x"], cli.USAGE, "scheme"),
        (["--token-file", "/nonexistent/token"], cli.USAGE, "cannot be read"),
        (["--file", "a.wav", "--device", "1"], cli.USAGE, "exclude"),
        (["--silence-ms", "5"], cli.USAGE, "160"),
        (["--plain", "--push-to-talk"], cli.USAGE, "needs the screen"),
        (["--plain", "127.0.0.1:1"], cli.UNREACHABLE, "No voxd is running"),  # before a missing microphone
        (["--plain", "--file", "/nonexistent.wav"], cli.FAILED, "there is no such file"),
        (["transcribe"], cli.USAGE, "FILE"),
        (["transcribe", "--format", "srt", "a.wav", "b.wav"], cli.USAGE, "Only one file"),
        (["transcribe", "--target", "127.0.0.1:1", __file__], cli.FAILED, "cannot be read as sound"),
    ],
)
def test_what_cannot_be_done(nowhere: Path, args: list[str], code: int, words: str) -> None:
    found, text = invoke(*args)
    assert (found, words in text) == (code, True), text


async def program(*args: str, **environ: str) -> tuple[int | None, str, str]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "voxtui", *args,
        env={**os.environ, **environ}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await child.communicate()
    return child.returncode, out.decode(), err.decode()


async def test_a_session_in_a_pipe(nowhere: Path) -> None:
    voxd = FakeVoxd([(60, utterance("a", 0, 50, "Hello."))])
    async with voxd.serve() as target:
        code, out, err = await program("connect", target.label, "--file", str(nowhere), VOXD_TOKEN="sesame")
    assert (code, out) == (0, "Hello.\n")
    assert "final_ms" not in err  # there was no voice in this clip
    assert voxd.headers["Authorization"] == "Bearer sesame"


async def test_a_refused_token(nowhere: Path) -> None:
    async with FakeVoxd(refuse=(401, refusal("The token is wrong."))).serve() as target:
        code, _, err = await program("--plain", "--file", str(nowhere), target.label)
    assert (code, "The token is wrong." in err) == (cli.REFUSED, True)
