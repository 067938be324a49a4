"""Nothing that is said, typed or answered reaches the log, at any level and in any way: a known phrase would show
it."""

from __future__ import annotations

import base64
import http.client
import json
import logging
import socket
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import unix_connect

from tests.support.chat_server import ChatServer, refuses, says
from tests.support.daemon import Daemon
from tests.support.fakes import short_folder
from tests.support.journals import Journal, journalled
from tests.support.speech import clip
from voxd.traces import Reticent, trace

CANARY = "periwinkle-flugelhorn"
FORM = "".join(
    f'--{CANARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{CANARY}\r\n'
    for name, more in (("file", f'; filename="{CANARY}.wav"'), ("model", ""), ("prompt", ""))
).encode()
FORM += f"--{CANARY}--\r\n".encode()
DEBUG = {"VOXD_LOG_LEVEL": "debug"}
URL = f"ws://localhost/v1/realtime?voxd_ext=metrics,provisional&{CANARY}=1"
# An engine with a bug that quotes what it was given.
CLUMSY = """
from voxd.engine.echo import Echo
from voxd.messages import Respond
class Clumsy(Echo):
    def receive(self, command):
        if isinstance(command, Respond):
            text = command.context[-1].text
            try: {}[text]
            except KeyError as error: raise ValueError(text) from error
        super().receive(command)
"""


class Client:
    """Sends, and keeps everything that was heard."""

    def __init__(self, daemon: Daemon) -> None:
        self._link = unix_connect(str(daemon.socket), URL)
        self.heard: list[str] = []

    def send(self, kind: str, **more: object) -> None:
        self._link.send(json.dumps({"type": kind, **more}))

    def raw(self, text: str) -> None:
        self._link.send(text)

    def until(self, kind: str) -> dict[str, Any]:
        while True:
            self.heard.append(str(self._link.recv(30)))
            event: dict[str, Any] = json.loads(self.heard[-1])
            if event["type"] == kind:
                return event

    def ask(self, text: str) -> dict[str, Any]:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        self.send("conversation.item.create", item=item)
        self.send("response.create")
        return dict(self.until("response.done")["response"])

    def close(self) -> None:
        self._link.close()


def everything(journal: Journal, daemon: Daemon) -> str:
    """All records with all fields, and what was written to standard error past them."""
    journal.until("session.end")
    daemon.process.terminate()
    assert daemon.process.wait(60) == 0
    return "\n".join(map(str, journal.records)) + daemon.log.read_text()


def request(daemon: Daemon, method: str, path: str, body: bytes = b"", **headers: str) -> int:
    connection = http.client.HTTPConnection("localhost", timeout=300)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(daemon.socket))
    connection.request(method, path, body, headers)
    status = connection.getresponse().status
    connection.close()
    return status


def mistakes(client: Client) -> None:
    """Everything that a client can send that is answered with an error that quotes it."""
    client.raw(f'{{"type": "{CANARY}"')
    client.send(CANARY)
    client.send("session.update", session={"model": CANARY, "voice": {CANARY: 1}})
    client.send("conversation.item.delete", item_id=CANARY)
    client.send("input_audio_buffer.append", audio=CANARY)
    for _ in range(5):
        client.until("error")


def test_what_is_typed_spoken_and_answered() -> None:
    """Whisper transcribes a clip; a chat server answers, then fails with an error that quotes."""
    with ChatServer(says(f"The answer is {CANARY}.")).running() as server, short_folder() as folder:
        config = folder / "config.yaml"
        config.write_text(json.dumps({"engine_options": {"cascade": {"url": server.url}}}))
        arguments = ("--config", str(config), "--transcribe", "whisper", "--respond", "cascade")
        with journalled(*arguments, env=DEBUG) as (journal, daemon):
            client = Client(daemon)
            sound = {"format": {"type": "audio/pcm", "rate": 16_000}, "transcription": {"prompt": CANARY}}
            client.send("session.update", session={"instructions": CANARY, "audio": {"input": sound}})
            assert client.ask(f"Do you know {CANARY}?")["status"] == "completed"
            mistakes(client)
            pcm = clip("ps_goforward").pcm() + bytes(32_000)
            client.send("input_audio_buffer.append", audio=base64.b64encode(pcm).decode())
            spoken = client.until("conversation.item.input_audio_transcription.completed")["transcript"]
            client.until("response.done")
            server.script = refuses(400, {"error": {"message": f"I do not like {CANARY}"}})
            failed = client.ask(CANARY)
            client.close()
            assert request(daemon, "GET", f"/{CANARY}?{CANARY}", Cookie=CANARY) == 404
            assert request(daemon, "POST", "/v1/realtime/client_secrets", CANARY.encode()) == 400
            assert request(daemon, "POST", "/v1/audio/transcriptions", CANARY.encode()) == 415
            form = {"Content-Type": f"multipart/form-data; boundary={CANARY}"}
            assert request(daemon, "POST", "/v1/audio/transcriptions", FORM, **form) == 400
            log = everything(journal, daemon)

    assert failed["status"] == "failed"
    assert any(f"is {CANARY}" in event for event in client.heard)  # it was there to be written down
    assert "forward" in spoken.lower()
    assert "response.done" in log  # and these turns were logged
    assert "turn.failed" in log
    assert CANARY not in log
    assert "forward" not in log.lower()


def test_a_bug_in_an_engine_that_quotes() -> None:
    with short_folder() as folder:
        (folder / "clumsy.py").write_text(CLUMSY)
        (folder / "clumsy-0.dist-info").mkdir()
        (folder / "clumsy-0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: clumsy\nVersion: 0\n")
        (folder / "clumsy-0.dist-info" / "entry_points.txt").write_text("[voxd.engines]\nclumsy = clumsy:Clumsy\n")
        env = {**DEBUG, "PYTHONPATH": f"{folder}:{Path(__file__).parents[2]}"}
        with journalled("--transcribe", "none", "--respond", "clumsy", env=env) as (journal, daemon):
            client = Client(daemon)
            assert client.ask(CANARY)["status"] == "failed"
            client.close()
            log = everything(journal, daemon)

    assert "clumsy.py" in log  # where it was
    assert "builtins.KeyError" in log
    assert "builtins.ValueError" in log
    assert CANARY not in log


def test_a_trace_has_frames_and_kinds_and_no_messages() -> None:
    def inner() -> None:
        raise KeyError(CANARY)

    def outer() -> None:
        try:
            inner()
        except KeyError as error:
            raise ValueError(CANARY) from error

    with pytest.raises(ValueError, match=CANARY) as caught:
        outer()
    told = trace(caught.value)
    record = logging.makeLogRecord({"msg": "bug", "exc_info": (ValueError, caught.value, caught.tb)})

    assert CANARY not in told
    assert told.index("builtins.KeyError") < told.index("builtins.ValueError")
    assert "in inner" in told
    assert Reticent("%(message)s").format(record) == f"bug\n{told}"
