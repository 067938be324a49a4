"""`voxtui transcribe` and the names of its files: in no encoding, pipes, `-`; an answer is never a transcript."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.events import AudioAppend, OutputTextDelta, Response, ResponseCreated, ResponseDone
from tests.support.daemon import Daemon, voxd_process
from tests.support.fakes import FakeVoxd, utterance
from tests.support.odd_files import voice, wav
from voxtui.capture.files import shown
from voxtui.commands.transcribe import FORMATS, transcribe_files
from voxtui.errors import ClientError
from voxtui.link.target import Direct

pytestmark = pytest.mark.timeout(300)
NAMES = [b"caf\xe9.wav", b"two\nlines.wav", b"\x1b[31mred\x1b]0;title\x07.wav", b"-dash.wav", "späť 声.wav".encode()]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with voxd_process("--transcribe", "echo", "--respond", "echo") as running:
        yield running


async def program(daemon: Daemon, *args: str | bytes, given: bytes | None = None) -> tuple[int | None, str, bytes]:
    command = [sys.executable, "-m", "voxtui", "transcribe", "--target", f"unix:{daemon.socket}", "--format", "json"]
    child = await asyncio.create_subprocess_exec(
        *command, *args, stdin=DEVNULL if given is None else PIPE, stdout=PIPE, stderr=PIPE
    )
    out, err = await child.communicate(given)
    return child.returncode, out.decode(), err


# ── names ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_names_of_every_kind(daemon: Daemon, tmp_path: Path) -> None:
    files = [os.fsencode(tmp_path) + b"/" + name for name in NAMES]
    for file in files:
        _write(file)
    code, out, err = await program(daemon, "--", *files, os.fsencode(tmp_path) + b"/none\xff.wav")
    assert code == 1
    assert b"Traceback" not in err
    assert b"none\\xff.wav: there is no such file." in err
    assert b"\x1b" not in out.encode() + err
    found = [Path(json.loads(line)["file"]).name for line in out.splitlines()]
    assert found == ["caf\\xe9.wav", "two lines.wav", "red.wav", "-dash.wav", "späť 声.wav"]


def _write(file: bytes) -> None:
    Path(os.fsdecode(file)).write_bytes(wav())


def test_a_name_acts_on_no_terminal() -> None:
    assert shown(Path("-")) == "standard input"
    for name in NAMES:
        assert shown(Path(os.fsdecode(name))).isprintable()


# ── pipes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_pipes_and_standard_input(daemon: Daemon, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    threading.Thread(target=fifo.write_bytes, args=(wav(kind="FLAC"),), daemon=True).start()
    code, out, err = await program(daemon, "-", str(fifo), given=wav())
    assert code == 0, err
    first, second = map(json.loads, out.splitlines())
    assert first["file"] == "standard input"
    assert first["seconds"] == second["seconds"] == 2.0
    assert first["text"] == second["text"] != ""


async def test_what_is_no_file(daemon: Daemon, tmp_path: Path) -> None:
    code, out, err = await program(daemon, str(tmp_path), "/dev/null", "-")
    assert (code, out) == (1, "")
    assert b"there is no sound file in this folder." in err
    assert b"/dev/null: this is a device, not a sound file." in err
    assert b"standard input: cannot be read as sound: it is empty." in err


async def test_a_pipe_into_which_nobody_writes_does_not_keep_the_program(daemon: Daemon, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    good = tmp_path / "good.wav"
    good.write_bytes(wav())
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "voxtui", "transcribe", "--target", f"unix:{daemon.socket}", str(good), str(fifo),
        stdout=PIPE, stderr=DEVNULL,
    )  # fmt: skip
    assert child.stdout is not None
    assert await child.stdout.readline(), "the first file is done, the second is waited for"
    child.terminate()
    async with asyncio.timeout(120):
        assert await child.wait() == 130


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def wavs(folder: Path) -> list[Path]:
    path = folder / "x.wav"
    path.write_bytes(wav(voice(seconds=1.5)))
    return [path]


async def test_a_session_that_is_refused_hears_nothing(tmp_path: Path) -> None:
    """A refused update leaves a conversation, which would answer what is said."""
    voxd = FakeVoxd(respond="fake", wont="Invalid value for 'language': 'xx'.")
    async with voxd.serve() as target:
        with pytest.raises(ClientError, match="refuses such a session: Invalid value for 'language'"):
            await transcribe_files(Direct(target), wavs(tmp_path), form="txt", language="xx")
    assert voxd.sent(AudioAppend) == []


@pytest.mark.parametrize("form", sorted(FORMATS))
async def test_an_answer_is_no_transcript(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    """The server answers whatever it was asked, and its answer is not written down."""
    answer = Response("resp_1", "completed", None, (), None, "inf", None, None)
    said = utterance("a", 0, 900, "He was not")
    answered = [
        ResponseCreated("", answer),
        OutputTextDelta("", "resp_1", "b", 0, 0, "MODEL"),
        ResponseDone("", answer),
    ]
    voxd = FakeVoxd([(1200, [*said, *answered])], respond="fake")
    async with voxd.serve() as target:
        await transcribe_files(Direct(target), wavs(tmp_path), form=form, language=None)
    out = capsys.readouterr().out
    assert "He was not" in out
    assert "MODEL" not in out


@pytest.mark.parametrize("language", ["xx", "english-ish", "e"])
async def test_a_daemon_with_a_responder_and_a_language_that_is_none(
    daemon: Daemon, tmp_path: Path, language: str
) -> None:
    """The real programs refuse without output, or transcribe, and never print what echo answers."""
    code, out, err = await program(daemon, "--language", language, str(wavs(tmp_path)[0]))
    if code == 0:
        assert json.loads(out)["text"].startswith("one two")
    else:
        assert out == ""
        assert b"names no language" in err
