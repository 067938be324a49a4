"""The real voxd that clients of others talk to: whisper hears, and a scripted chat server behind `cascade` answers."""

from __future__ import annotations

import contextlib
import json
import shlex
import socket
import subprocess
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from shared.audio import RATE
from tests.clients.catalogue import ROOT, Client
from tests.support.chat_server import Asked, ChatServer, endless, says
from tests.support.daemon import Daemon, environment, voxd_process
from tests.support.speech import clip

CLIENT_RATE = 24_000
QUESTION = "What is two and two?"
SPEECH = "two_cities_1"
PATIENCE_S = 300.0  # for one scenario: a first import of some of them takes half a minute on a busy machine
TOKEN = "clients-of-others-" + "0" * 25


async def answers(asked: Asked) -> None:
    """Repeats what was said last; a story has no end."""
    last = str(asked.body["messages"][-1].get("content"))
    await (endless() if "long story" in last.lower() else says(f"You said: {last}"))(asked)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Of localhost and 127.0.0.1, made by the command of docs/USE.md."""

    certificate: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> Certificate:
        lines = (ROOT / "docs" / "USE.md").read_text(encoding="utf-8").splitlines()
        command = next(line for line in lines if line.startswith("openssl req"))
        subprocess.run(shlex.split(command), check=True, capture_output=True, cwd=folder)
        return cls(folder / "cert.pem", folder / "key.pem")


@dataclass(frozen=True, slots=True)
class Stage:
    """One folder, one chat server, and the port that each voxd of it listens on.

    `sock`: handed over to each of them and kept over a restart, as systemd does; None: each opens the port itself."""

    folder: Path
    chat: ChatServer
    certificate: Certificate | None
    port: int
    sock: socket.socket | None

    @contextlib.contextmanager
    def daemon(self, **more: str) -> Iterator[Daemon]:
        """Another one each time, on the same socket; `more` is added to its environment."""
        options = {"cascade": {"url": self.chat.url, "model": "tiny"}}
        token = self.folder / "token"
        if not token.exists():
            token.write_text(TOKEN)
            token.chmod(0o600)
        env = {"VOXD_ENGINE_OPTIONS": json.dumps(options), "VOXD_SERVER_TOKEN_FILE": str(token), **more}
        flags = ["--transcribe", "whisper", "--respond", "cascade"]
        if self.certificate:
            flags += ["--tls-cert", str(self.certificate.certificate), "--tls-key", str(self.certificate.key)]
        if self.sock is None:
            flags += ["--listen", f"127.0.0.1:{self.port}"]
        with voxd_process(*flags, env=env, given=(self.sock,) if self.sock else ()) as daemon:
            yield daemon

    def environment(self) -> dict[str, str]:
        """What a script is told."""
        scheme = "https" if self.certificate else "http"
        given = {
            "OPENAI_BASE_URL": f"{scheme}://127.0.0.1:{self.port}/v1",
            "OPENAI_API_KEY": TOKEN,
            "CLIP": str(self.folder / "clip.wav"),
            "QUESTION": QUESTION,
        }
        if self.certificate:
            given["NODE_EXTRA_CA_CERTS"] = str(self.certificate.certificate)
        return environment(self.folder, given)

    def script(self, client: Client, scenario: str) -> subprocess.Popen[str]:
        """Begun, with its standard streams open."""
        pipe = subprocess.PIPE
        command, given = client.command(scenario), self.environment()
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=given, cwd=self.folder)


@contextlib.contextmanager
def stage(folder: Path, *, tls: bool = False, kept: bool = True) -> Iterator[Stage]:
    """Everything but the daemon."""
    samples = soxr.resample(clip(SPEECH).samples(), RATE, CLIENT_RATE)
    with wave.open(str(folder / "clip.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(CLIENT_RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    with ChatServer(answers).running() as chat, socket.create_server(("127.0.0.1", 0)) as sock:
        port = int(sock.getsockname()[1])
        if not kept:
            sock.close()
        yield Stage(folder, chat, Certificate.make(folder) if tls else None, port, sock if kept else None)
