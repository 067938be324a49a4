"""The daemon as a stranger meets it: real processes, a real socket, the `echo` engine where no words are needed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from shared import events
from shared.audio import RATE
from tests.support.daemon import Daemon, voxd_process
from tests.support.fakes import short_folder
from tests.support.speech import clip

SPEECH = clip("librivox_austen_0880").pcm()
SILENCE = bytes(2 * RATE)
SOUND = {"format": {"type": "audio/pcm", "rate": RATE}, "transcription": {}}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with voxd_process("--transcribe", "echo", "--respond", "echo") as running:
        yield running


class Talk:
    """A client that reads everything and waits for what it wants."""

    def __init__(self, link: ClientConnection) -> None:
        self.link = link
        self.seen: list[dict[str, Any]] = []

    async def send(self, event: events.ClientEvent) -> None:
        await self.link.send(events.dump(event), text=True)

    async def speak(self, pcm: bytes) -> None:
        """Sends sound as fast as the server reads."""
        for at in range(0, len(pcm), 6400):
            await self.send(events.AudioAppend(audio=pcm[at : at + 6400]))

    async def begin(self) -> dict[str, Any]:
        """Sends the first second and a half in parts, as it would come in real time."""
        await self.speak(SPEECH[:RATE])
        await self.until("input_audio_buffer.speech_started")
        await self.speak(SPEECH[RATE : 3 * RATE])
        return await self.until("conversation.item.input_audio_transcription.delta")

    async def until(self, kind: str) -> dict[str, Any]:
        async with asyncio.timeout(60):
            while True:
                event = json.loads(await self.link.recv())
                self.seen.append(event)
                if event["type"] == kind:
                    return dict(event)

    def names(self) -> list[str]:
        return [event["type"] for event in self.seen]


@asynccontextmanager
async def talk(daemon: Daemon, query: str = "", **sound: Any) -> AsyncIterator[Talk]:
    async with unix_connect(str(daemon.socket), f"ws://localhost/v1/realtime{query}", compression=None) as link:
        talking = Talk(link)
        await talking.until("session.created")
        await talking.send(events.SessionUpdate(session={"audio": {"input": SOUND | sound}}))
        await talking.until("session.updated")
        yield talking


async def sessions_become(daemon: Daemon, count: int) -> None:
    async with asyncio.timeout(60):
        while (await asyncio.to_thread(daemon.status))["sessions"] != count:
            pass


async def test_a_transcription_session(daemon: Daemon) -> None:
    async with talk(daemon, "?intent=transcription&voxd_ext=metrics") as person:
        await person.speak(SPEECH + SILENCE)
        done = await person.until("conversation.item.input_audio_transcription.completed")
        report = await person.until("voxd.metrics")

    deltas = "".join(e["delta"] for e in person.seen if e["type"].endswith("transcription.delta"))
    assert deltas == done["transcript"] != ""
    assert report["item_id"] == done["item_id"]
    assert report["scope"] == "transcription"
    assert not any(name.startswith("response.") for name in person.names())


@pytest.mark.parametrize(
    ("query", "name", "known"),
    [
        ("intent=transcribe", "intent", "transcription"),
        ("voxd_ext=metrics,provisonal,%20binary", "voxd_ext", "metrics, provisional, binary, resume"),
        ("dialect=openai", "dialect", "ga, vllm"),
    ],
)
async def test_a_value_in_the_url_that_nobody_knows_is_told(query: str, name: str, known: str, daemon: Daemon) -> None:
    """To the client with the values that there are, and in the journal without the value."""
    async with talk(daemon, f"?{query}") as person:
        (warned,) = person.seen[0]["voxd_warnings"]

    assert (warned["code"], warned["param"]) == ("unknown_value", name)
    assert known in warned["message"]
    lines = [line for line in daemon.log.read_text().splitlines() if "unknown_value" in line]
    assert any(name in line for line in lines)
    value = query.partition("=")[2]
    assert not any(value in line for line in lines)
    async with talk(daemon, "?intent=transcription&voxd_ext=metrics,%20provisional,&dialect=ga") as person:
        assert "voxd_warnings" not in person.seen[0]


async def test_a_conversation_turn(daemon: Daemon) -> None:
    async with talk(daemon) as person:
        await person.speak(SPEECH + SILENCE)
        await person.until("response.output_text.delta")
        await person.send(events.ResponseCancel())
        done = await person.until("response.done")

    assert done["response"]["status"] == "cancelled"
    assert "voxd.metrics" not in person.names(), "extensions are for those who asked"


async def test_bad_input_costs_nothing(daemon: Daemon) -> None:
    async with talk(daemon, turn_detection=None) as person:
        for bad in ("{", "[]", '{"type":"x"}', '{"type":"input_audio_buffer.append","audio":"@"}'):
            await person.link.send(bad)
            await person.until("error")
        await person.link.send(b"\0\0")
        assert (await person.until("error"))["error"]["code"] == "invalid_event"
        await person.speak(SPEECH)
        await person.send(events.AudioCommit())
        await person.until("conversation.item.input_audio_transcription.completed")


async def test_a_vanished_client_frees_its_slot_at_once(daemon: Daemon) -> None:
    await sessions_become(daemon, 0)
    async with talk(daemon) as person:
        await person.speak(SPEECH)
        await sessions_become(daemon, 1)
        person.link.transport.abort()
        await sessions_become(daemon, 0)


async def test_many_clients_do_not_hear_each_other(daemon: Daemon) -> None:
    async def one(seconds: float) -> str:
        pcm = SPEECH[: int(seconds * RATE) * 2]
        async with talk(daemon, "?intent=transcription", turn_detection=None) as person:
            await person.speak(pcm)
            await person.send(events.AudioCommit())
            done = await person.until("conversation.item.input_audio_transcription.completed")
            return str(done["transcript"])

    lengths = [1.0, 1.5, 2.0, 2.5] * 3
    alone = {seconds: await one(seconds) for seconds in set(lengths)}
    together = await asyncio.gather(*(one(seconds) for seconds in lengths))

    assert together == [alone[seconds] for seconds in lengths]
    assert len(set(alone.values())) > 1


async def test_the_engine_process_dies_in_mid_utterance(tmp_path: Path) -> None:
    """The connection stays, the open utterance goes on in the next process, and the next turn works."""
    with voxd_process("--transcribe", "echo", "--respond", "echo") as daemon:
        async with talk(daemon, "?intent=transcription") as person:
            before = await person.begin()
            pid = (await asyncio.to_thread(daemon.status))["engine_pid"]
            assert isinstance(pid, int)
            os.kill(pid, signal.SIGKILL)
            await person.speak(SPEECH[3 * RATE :] + SILENCE)
            done = await person.until("conversation.item.input_audio_transcription.completed")
            deltas = "".join(e["delta"] for e in person.seen if e["type"].endswith("transcription.delta"))
            assert done["item_id"] == before["item_id"]
            assert done["transcript"] == deltas
            assert person.names().count("input_audio_buffer.speech_started") == 1
            person.seen.clear()
            await person.speak(SPEECH + SILENCE)
            again = await person.until("conversation.item.input_audio_transcription.completed")
            assert again["transcript"] != ""


async def test_the_text_after_a_replay_is_that_of_an_undisturbed_run(tmp_path: Path) -> None:
    async def transcript(daemon: Daemon, *, kill: bool) -> str:
        async with talk(daemon, "?intent=transcription") as person:
            await person.begin()
            if kill:
                os.kill(int(str((await asyncio.to_thread(daemon.status))["engine_pid"])), signal.SIGKILL)
            await person.speak(SPEECH[3 * RATE :] + SILENCE)
            return str((await person.until("conversation.item.input_audio_transcription.completed"))["transcript"])

    with voxd_process("--transcribe", "echo") as daemon:
        assert await transcript(daemon, kill=True) == await transcript(daemon, kill=False)


async def test_sessions_are_limited_and_refused_before_the_upgrade(tmp_path: Path) -> None:
    with voxd_process("--transcribe", "echo", env={"VOXD_SERVER_MAX_SESSIONS": "1"}) as daemon:
        async with talk(daemon):
            with pytest.raises(InvalidStatus) as refused:
                async with talk(daemon):
                    pass
    answer = refused.value.response
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert json.loads(answer.body or b"")["error"]["code"] == "session_limit_reached"


async def test_tcp_wants_the_token(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path / "state")}
    with voxd_process("--transcribe", "echo", "--listen", "127.0.0.1:0", env=environ) as daemon:
        listening = (await asyncio.to_thread(daemon.status))["listen"]
        assert isinstance(listening, list)
        url = f"ws://{listening[0]}/v1/realtime"
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url):
                pass
        assert refused.value.response.status_code == 401
        printed = command("token", environ=environ).stdout.strip()
        async with connect(url, additional_headers={"Authorization": f"Bearer {printed}"}) as link:
            assert json.loads(await link.recv())["type"] == "session.created"


@pytest.mark.parametrize(("number", "whom"), [("SIGTERM", "gateway"), ("SIGTERM", "group"), ("SIGINT", "group")])
async def test_stopping_lets_a_turn_end_and_tells_clients_to_come_back(number: str, whom: str) -> None:
    """A terminal, a supervisor or `kill -- -PGID` signals the whole group: the engine process must not go first."""
    environ = {"VOXD_ENGINE_OPTIONS": "{echo: {tokens: 40, token_ms: 20}}"}
    with voxd_process("--respond", "echo", "--transcribe", "none", env=environ) as daemon:
        async with talk(daemon) as person:
            await person.send(events.ResponseCreate())
            await person.until("response.output_text.delta")
            (os.kill if whom == "gateway" else os.killpg)(daemon.process.pid, signal.Signals[number])
            done = await person.until("response.done")
            assert done["response"]["status"] == "completed"
            with pytest.raises(ConnectionClosed) as closed:
                await person.until("never")
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
        assert await asyncio.to_thread(daemon.process.wait, 60) == 0
        assert not daemon.socket.exists()


async def test_a_responder_does_not_write_down_what_is_said() -> None:
    """Two engines hear the same utterance; the transcript is the transcriber's."""
    with voxd_process("--transcribe", "whisper", "--respond", "echo") as daemon:
        async with talk(daemon) as person:
            await person.speak(clip("ps_goforward").pcm() + SILENCE)
            done = await person.until("conversation.item.input_audio_transcription.completed")

    assert "forward" in done["transcript"].lower()


# ── the command line ────────────────────────────────────────────────────────────────────────────────────────────────


def command(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "voxd", *arguments],
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_status_and_stop_of_nothing(tmp_path: Path) -> None:
    for what in ("status", "stop"):
        found = command(what, "--socket", str(tmp_path / "none.sock"))
        assert found.returncode == 3
        assert "voxd start" in found.stderr


def test_a_second_start_says_so_and_is_no_failure(daemon: Daemon) -> None:
    found = command("start", "--socket", str(daemon.socket), "--transcribe", "echo")

    assert (found.returncode, "already running" in found.stdout) == (0, True)


def test_settings_that_are_wrong_by_now_hide_no_daemon(daemon: Daemon, tmp_path: Path) -> None:
    """The daemon runs with older settings; asking it, reaching it through a tunnel and stopping it need none."""
    config = tmp_path / "voxd" / "config.yaml"
    config.parent.mkdir()
    config.write_text("vad: {treshold: 1}\n")
    with short_folder() as folder:
        (folder / "voxd").mkdir()
        (folder / "voxd" / "voxd.sock").symlink_to(daemon.socket)
        environ = {"XDG_RUNTIME_DIR": str(folder), "XDG_CONFIG_HOME": str(tmp_path)}
        status = command("status", "--json", environ=environ)
        named = command("status", "--config", str(config), environ=environ)

    assert (status.returncode, json.loads(status.stdout)["pid"]) == (0, daemon.process.pid)
    assert f"voxd: {config}:1:7: vad.treshold: unknown key" in status.stderr
    assert named.returncode == 78


def test_a_start_by_hand_beside_the_service_says_so(daemon: Daemon, tmp_path: Path) -> None:
    """Two daemons would load the model twice; the service's socket is at another path than a shell's."""
    service = tmp_path / "state" / "voxd" / "run" / "voxd.sock"
    service.parent.mkdir(parents=True)
    service.symlink_to(daemon.socket)
    with short_folder() as folder:
        environ = {"XDG_RUNTIME_DIR": str(folder), "XDG_STATE_HOME": str(tmp_path / "state")}
        found = command("start", "--transcribe", "echo", environ=environ)

    assert (found.returncode, found.stderr) == (0, "")
    assert f"already running at {service}; another beside it takes --socket PATH" in found.stdout


def test_status_for_people_and_for_programs(daemon: Daemon) -> None:
    told = command("status", "--socket", str(daemon.socket)).stdout
    assert "transcribe echo" in told
    parsed = json.loads(command("status", "--socket", str(daemon.socket), "--json").stdout)
    assert (parsed["state"], parsed["pid"]) == ("ready", daemon.process.pid)


@pytest.mark.parametrize(
    ("yaml", "arguments", "status", "told"),
    [
        ("vad:\n  treshold: 0.4\n", (), 78, "config.yaml:2:3"),
        (
            "",
            ("--transcribe", "nonsense"),
            78,
            "there are: cascade, echo, llama, voxtral-mini, voxtral-realtime, whisper, none",
        ),
        ("engine_options: {echo: {tokens: no}}\n", ("--transcribe", "echo"), 78, "engine_options.echo.tokens"),
        ("", ("--transcribe", "whisper", "--respond", "whisper"), 78, "cannot fill the role `respond`"),
        ("", ("--listen", "nowhere:99999"), 2, "99999"),
        ("", ("--transcribe", "echo", "--listen", f"unix:{__file__}"), 1, "a file that is not a socket is there"),
        ("", ("--transcribe", "echo", "--listen", "unix:/proc/nowhere/s"), 1, "cannot listen on /proc/nowhere/s"),
    ],
)
def test_what_cannot_be_started(tmp_path: Path, yaml: str, arguments: tuple[str, ...], status: int, told: str) -> None:
    settings = tmp_path / "config.yaml"
    settings.write_text(yaml)
    found = command("start", "--config", str(settings), "--socket", str(tmp_path / "v.sock"), *arguments)

    assert found.returncode == status
    assert told in found.stderr
    assert "Traceback" not in found.stderr


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with voxd_process("--transcribe", "echo", "--no-token", "--listen", "127.0.0.1:0") as daemon:
        listening = daemon.status()["listen"]
        assert isinstance(listening, list)
        second = tmp_path / "second.sock"
        found = command(
            "start", "--socket", str(second), "--transcribe", "echo", "--no-token", "--listen", listening[0]
        )

    assert found.returncode == 1
    assert listening[0] in found.stderr
    assert f"ss -ltnp 'sport = :{listening[0].rpartition(':')[2]}' shows who uses it" in found.stderr
    assert "Traceback" not in found.stderr


def test_the_log_tells_of_turns_and_never_of_words(tmp_path: Path) -> None:
    async def speak(daemon: Daemon) -> str:
        async with talk(daemon, "?intent=transcription") as person:
            await person.speak(np.asarray(clip("ps_goforward").pcm() + SILENCE).tobytes())
            done = await person.until("conversation.item.input_audio_transcription.completed")
            return str(done["transcript"])

    with voxd_process("--transcribe", "whisper") as daemon:
        words = asyncio.run(speak(daemon))
        daemon.process.send_signal(signal.SIGTERM)
        daemon.process.wait(60)
        log = daemon.log.read_text()

    assert "forward" in words.lower()
    assert "forward" not in log.lower()
    assert "turn 1 · " in log
    assert " · final " in log
    assert "started · transcription" in log
    assert "ended · 1 turn" in log


async def test_tls_for_clients_that_know_nothing_else(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    await asyncio.to_thread(
        subprocess.run,
        [openssl, *made, "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    flags = ("--tls-cert", str(certificate), "--tls-key", str(key))
    with voxd_process("--transcribe", "echo", "--no-token", "--listen", "127.0.0.1:0", *flags) as daemon:
        listening = daemon.status()["listen"]
        assert isinstance(listening, list)
        trusting = ssl.create_default_context(cafile=str(certificate))
        trusting.check_hostname = False
        async with connect(f"wss://{listening[0]}/v1/realtime", ssl=trusting) as link:
            assert json.loads(await link.recv())["type"] == "session.created"
    assert command("start", "--tls-cert", str(certificate)).returncode == 78
