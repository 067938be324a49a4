"""Odd files through everything: the daemon's endpoint and `voxtui transcribe` find and say the same of them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from shared.audio import RATE
from shared.audio_file import AudioFile, Unreadable
from tests.support.daemon import Daemon, voxd_process
from tests.support.odd_files import Odd, corpus, voice, wav
from voxtui.commands.transcribe import transcribe_files
from voxtui.link.target import Direct, unix_target

pytestmark = pytest.mark.timeout(300)
KINDS = (
    "size-0.wav", "size-too-small-1000.wav", "size-too-large-100000000.wav", "joined.wav", "rf64.wav",
    "extensible-pcm_24.wav", "ima_adpcm.wav", "double.wav", "24-channels.wav", "192000.wav", "1600-nan.wav",
    "float-16-any.wav", "opposite-1.0.wav", "cut-0.8.flac", "cut-0.4.aiff", "unknown-length.flac", "whole.caf",
    "joined.mp3", "ape-between.mp3", "chained.opus", "chained-with-another-codec.ogg", "no-end.opus", "libopus.webm",
    "streamed.m4a", "empty.wav", "text.wav", "head.wav", "playlist.m3u8",
)  # fmt: skip


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with voxd_process("--transcribe", "echo") as running:
        yield running


def some() -> list[Odd]:
    """One or two of each kind; the decoder alone has them all, in test_audio_file.py."""
    return [odd for odd in corpus() if odd.name in KINDS]


def expected(odd: Odd) -> tuple[float, str]:
    """Seconds, and what is to be said."""
    try:
        with AudioFile(io.BytesIO(odd.data)) as file:
            while file.read():
                pass
            return file.samples / RATE, "; ".join(file.notes)
    except Unreadable as error:
        return 0.0, str(error)


@pytest.mark.parametrize("odd", some(), ids=lambda odd: odd.name)
async def test_the_daemon(daemon: Daemon, odd: Odd) -> None:
    seconds, told = expected(odd)
    transport = httpx.AsyncHTTPTransport(uds=str(daemon.socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=120) as http:
        answer = await http.post("/v1/audio/transcriptions", files={"file": ("x", odd.data)})
        streamed = await http.post("/v1/audio/transcriptions", files={"file": ("x", odd.data)}, data={"stream": "true"})
    if answer.status_code == 400:
        assert seconds == 0
        assert told in answer.json()["error"]["message"]
        return
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["seconds"] == pytest.approx(seconds, abs=0.01)
    notes = answer.headers.get("x-voxd-notes", "")
    assert notes == told
    assert re.search(odd.told, notes)
    done = json.loads(streamed.text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert "; ".join(done.get("voxd", {"notes": []})["notes"]) == told


async def test_the_client(daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All in one call: each is told about by its own name, and what cannot be read does not stop the others."""
    files = [tmp_path / odd.name for odd in some()]
    for odd, file in zip(some(), files, strict=True):
        file.write_bytes(odd.data)
    good = await transcribe_files(Direct(unix_target(daemon.socket)), files, form="json", language=None)
    assert not good, "some cannot be read"
    out, err = capsys.readouterr()
    found = {Path(each["file"]).name: each for each in map(json.loads, out.splitlines())}
    for odd in some():
        seconds, told = expected(odd)
        lines = [line for line in err.splitlines() if f"{odd.name}: " in line]
        assert told == "" or any(note in line for note in told.split("; ") for line in lines), (odd.name, lines)
        if odd.name in found:
            assert found[odd.name]["seconds"] == pytest.approx(seconds, abs=0.02), odd.name
            assert bool(found[odd.name]["text"]) == (seconds > 0.5), odd.name
        else:
            assert seconds == 0, odd.name


async def test_silence_is_said(daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = tmp_path / "quiet.wav"
    quiet.write_bytes(_silence())
    assert await transcribe_files(Direct(unix_target(daemon.socket)), [quiet], form="txt", language=None)
    out, err = capsys.readouterr()
    assert out == ""
    assert "quiet.wav: no speech was found in 3.0 s of sound." in err
    transport = httpx.AsyncHTTPTransport(uds=str(daemon.socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=120) as http:
        answer = await http.post("/v1/audio/transcriptions", files={"file": ("x", _silence())})
    assert answer.headers["x-voxd-notes"] == "no speech was found in it"
    assert "the file: no speech was found in it" in daemon.log.read_text()


def _silence() -> bytes:
    return wav(0 * voice(seconds=3.0))
