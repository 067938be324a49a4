"""Every file of examples/ does what it says, against a real daemon with real speech."""

from __future__ import annotations

import os
import subprocess
import sys
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import numpy as np
import pytest
import soxr

from shared.audio import RATE, float_to_pcm16
from tests.support.daemon import voxd_process
from tests.support.speech import FOLDER, clip
from voxtui.commands.local import NEEDED

EXAMPLES = Path(__file__).parents[2] / "examples"
WAIT_S = 300.0
pytestmark = pytest.mark.skipif(any(find_spec(name) is None for name in NEEDED), reason="needs the extra [whisper]")


@dataclass(frozen=True)
class Server:
    address: str  # HOST:PORT
    environ: dict[str, str]

    def run(self, *command: str, **more: str) -> str:
        """Standard output of an example that must succeed."""
        folder = self.environ["HOME"]
        done = subprocess.run(
            command, env=self.environ | more, cwd=folder, capture_output=True, text=True, timeout=WAIT_S, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@contextmanager
def serving(engine: str) -> Iterator[Server]:
    """A daemon with that transcriber on a port of its own."""
    with voxd_process("--transcribe", engine, "--listen", "127.0.0.1:0") as running:
        listening = running.status()["listen"]
        assert isinstance(listening, list)
        programs = Path(sys.executable).parent
        environ = os.environ | {"HOME": str(running.folder), "PATH": f"{programs}:{os.environ['PATH']}"}
        asked = [sys.executable, "-m", "voxd", "token", "--socket", str(running.socket)]
        token = subprocess.run(asked, env=environ, capture_output=True, text=True, timeout=WAIT_S, check=True)
        yield Server(str(listening[0]), environ | {"VOXD_TOKEN": token.stdout.strip()})


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("whisper") as running:
        yield running


def speech(path: Path, rate: int) -> str:
    """A clip of one sentence as a WAV file."""
    samples = clip("ps_goforward").samples()
    resampled = np.asarray(soxr.resample(samples, RATE, rate), np.float32)
    with wave.open(str(path), "wb") as written:
        written.setparams((1, 2, rate, 0, "NONE", ""))
        written.writeframes(float_to_pcm16(resampled))
    return str(path)


def test_the_openai_client(server: Server, tmp_path: Path) -> None:
    script, sound = str(EXAMPLES / "openai_client.py"), speech(tmp_path / "speech.wav", 24_000)
    assert "forward" in server.run(sys.executable, script, sound, f"http://{server.address}/v1").lower()


def test_the_bare_websocket(server: Server, tmp_path: Path) -> None:
    script, sound = str(EXAMPLES / "websocket.py"), speech(tmp_path / "speech.wav", RATE)
    url = f"ws://{server.address}/v1/realtime?intent=transcription"
    assert "forward" in server.run(sys.executable, script, sound, url).lower()


@pytest.mark.skipif(which("curl") is None, reason="needs curl")
def test_the_upload(server: Server, tmp_path: Path) -> None:
    sound = speech(tmp_path / "speech.wav", RATE)
    said = server.run("sh", str(EXAMPLES / "upload.sh"), sound, f"http://{server.address}/v1")
    assert "forward" in said.lower()


def test_the_bench() -> None:
    """The engine needs no time, since the clock of a busy machine is not what is tested here."""
    with serving("echo") as quick:
        said = quick.run("sh", str(EXAMPLES / "bench_in_ci.sh"), quick.address, "600000", TURNS="1")
        assert "final_ms" in said
        assert (Path(quick.environ["HOME"]) / "bench.json").exists()


def test_the_plug_in_keeps_its_promises(tmp_path: Path) -> None:
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    source = tmp_path / "source"  # a copy: a build leaves its files beside the source
    source.mkdir()
    for file in (EXAMPLES / "engine_plugin").iterdir():
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())
    target = tmp_path / "target"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *offline, "--target", str(target), str(source)],
        check=True,
        capture_output=True,
        timeout=WAIT_S,
    )
    environ = os.environ | {"PYTHONPATH": f"{target}:{EXAMPLES.parent}"}
    done = subprocess.run(
        [sys.executable, "-m", "voxd.engine.conformance", "shout", "--clip", str(FOLDER / "ps_goforward.flac")],
        env=environ,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("shout: every promise is kept\n")


def test_all_examples_are_named_and_tried() -> None:
    told, tried = (EXAMPLES / "README.md").read_text(), Path(__file__).read_text()
    for file in EXAMPLES.iterdir():
        if file.name != "README.md":
            assert f"({file.name})" in told
            assert f'"{file.name}"' in tried
