"""voxtui.doctor: facts from real sockets, programs and daemons, and a whole report of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.audio import RATE
from shared.config import token_path
from tests.support.daemon import environment, voxd_process
from tests.support.fakes import short_folder
from tests.support.sshd import sshd
from tests.voxtui.capture.test_microphone import play, room, why_not
from voxtui.doctor import way
from voxtui.doctor.command import doctor
from voxtui.doctor.facts import Engines, Forward
from voxtui.doctor.machine import ask, hear, ssh_config
from voxtui.errors import Misconfigured
from voxtui.link.ssh_child import still_loading
from voxtui.link.target import Address, Direct, Target, behind_proxy, parse_target, ssh_target, unix_target

# ── this machine ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_program_that_hangs_is_ended() -> None:
    assert await ask(["sleep", "600"], 0.05) is None
    assert await ask(["/no/such/program"], 5) is None


async def test_the_microphone_of_this_machine_or_why_there_is_none() -> None:
    sound = await hear(os.environ)
    assert sound is not None
    assert sound.missing or sound.version
    assert sound.missing or sound.trouble or sound.device


@pytest.mark.slow
@pytest.mark.audio
@pytest.mark.skipif(bool(why_not()), reason=why_not())
async def test_a_muted_microphone_and_one_that_hears() -> None:
    async with room() as environ, asyncio.timeout(60):
        quiet = await hear(environ)
        noise = asyncio.create_task(play(environ, bytes(range(256)) * 400))
        loud = quiet
        while loud is not None and loud.peak == 0:
            loud = await hear(environ)
        await noise
    assert quiet is not None
    assert (quiet.device, quiet.peak) == ("default", 0)
    assert loud is not None
    assert loud.level > -60


# ── ssh ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="needs ssh (openssh-client)")
PLAIN = ("ssh", "-F", "/dev/null")


@needs_ssh
async def test_ssh_says_itself_what_it_forwards() -> None:
    found = await ssh_config(
        [*PLAIN, "-fNL", "8000:gpu:8001", "-L/tmp/a.sock:/run/b.sock", "-p", "2222", "eve@host.example"]
    )
    assert found is not None
    assert (found.target, found.name, found.port) == ("ssh://eve@host.example:2222", "host.example", 2222)
    assert (found.bare, found.proxy) == (True, "")
    assert sorted(found.forwards) == [("/tmp/a.sock", "/run/b.sock"), ("8000", "[gpu]:8001")]


@needs_ssh
async def test_what_stands_between() -> None:
    jump = await ssh_config([*PLAIN, "-J", "bastion", "host"])
    through = await ssh_config([*PLAIN, "-o", "ProxyCommand=nc %h %p", "host", "cat"])
    assert jump is not None
    assert through is not None
    assert (jump.proxy, through.proxy) == ("ProxyJump bastion", "ProxyCommand")
    assert not through.bare
    assert await ssh_config([*PLAIN, "-o", "NoSuchOption=1", "host"]) is None


@asynccontextmanager
async def listener(said: bytes, *, hangs_up: bool = False) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A TCP port that says something to each client; the event is set when one has come."""
    came = asyncio.Event()
    visits: list[asyncio.Task[Any]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        visits.append(task)
        came.set()
        with contextlib.suppress(ConnectionError):
            writer.write(said)
            if hangs_up:
                writer.write_eof()
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], came
        await asyncio.gather(*visits)


@contextmanager
def running(*command: str) -> Iterator[int]:
    """The id of a process that runs."""
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


@needs_ssh
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
async def test_a_hand_made_tunnel_is_found_and_its_server_asked() -> None:
    """A real ssh forwards the target's port, at a server that never goes beyond its first line."""
    target = parse_target("localhost:48123")
    async with listener(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n") as (port, came), asyncio.timeout(60):
        forward = ("-N", "-L", "48123:localhost:8000", "-p", str(port))
        with running(*PLAIN, "-o", "BatchMode=yes", *forward, "127.0.0.1") as pid:
            await came.wait()
            found = await way.find_forwards(target)
            elsewhere = await way.find_forwards(parse_target("localhost:48124"))
    mine = [each for each in found if each.pid == pid]
    assert mine == [Forward(pid, f"ssh://127.0.0.1:{port}", True, "48123", "localhost:8000", "OpenSSH_9.2p1")]
    assert [each for each in elsewhere if each.pid == pid] == []


@pytest.mark.parametrize(
    ("said", "hangs_up", "banner", "failure"),
    [
        (b"SSH-2.0-OpenSSH_10.1p1 x\r\n", False, "OpenSSH_10.1p1", ""),
        (b"Authorised use only.\r\nSSH-2.0-dropbear_2022.83\r\n", False, "dropbear_2022.83", ""),
        (b"HTTP/1.0 400\r\n\r\n", True, "", "other"),
        (b"x" * 100_000, True, "", "other"),
        (b"", False, "", "silent"),
    ],
)
async def test_the_first_line_of_a_server(
    monkeypatch: pytest.MonkeyPatch, said: bytes, hangs_up: bool, banner: str, failure: str
) -> None:
    monkeypatch.setattr(way, "KNOCK_S", 0.3 if failure == "silent" else 20.0)
    async with listener(said, hangs_up=hangs_up) as (port, _):
        knock = await way.knock_at_sshd("127.0.0.1", port)
    assert (knock.banner, knock.failure) == (banner, failure)


async def test_why_nobody_is_reached(tmp_path: Path) -> None:
    """`localhost` has two addresses on most machines, for which asyncio words the error differently."""
    async with listener(b"") as (port, _):
        pass
    for host in ("127.0.0.1", "localhost"):
        closed = await way.knock_at_sshd(host, port)
        assert (closed.failure, closed.trouble) == ("refused", "nobody listens there")
    path = str(tmp_path / "no.sock")
    assert (await way.knock_at(path, asyncio.open_unix_connection(path))).failure == "missing"
    assert (await way.knock_at_sshd("no such host", 22)).failure == "unknown"


async def test_a_proxy_is_knocked_at_in_the_place_of_voxd() -> None:
    async with listener(b"") as (port, _):
        environ = {"https_proxy": f"http://somebody:secret@127.0.0.1:{port}"}
        target = behind_proxy(parse_target("wss://voxd.example"), environ)
        found = await way.look_at_way(target, Direct(target, None), {})
    assert found.stands
    assert (found.knock.place, found.proxy) == (f"127.0.0.1:{port}", "https_proxy")
    closed = await way.look_at_way(target, Direct(target, None), {})
    assert closed.knock.failure == "refused"


class StubRoute(Direct):
    """A route of the test's.  `tells`: lines before it hangs for ever; `fails`: the error that it raises."""

    def __init__(self, tells: str = "", fails: Exception | None = None) -> None:
        super().__init__(unix_target(Path("/nowhere")), None)
        self._tells, self._fails = tells, fails

    async def address(self, tell: Callable[[str], None]) -> Address:
        if self._fails is not None:
            raise self._fails
        if self._tells:
            tell(self._tells)
            await asyncio.Event().wait()
        return await super().address(tell)


async def test_a_tunnel_that_stands_loads_hangs_or_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await way.dig(StubRoute())).how == "a UNIX socket"
    assert (await way.dig(StubRoute(still_loading("40 %")))).loading == still_loading("40 %")
    assert (await way.dig(StubRoute(fails=Misconfigured("No key.")))).trouble == "No key."
    monkeypatch.setattr(way, "TUNNEL_S", 0.05)
    assert "does not stand" in (await way.dig(StubRoute("sshd forbids forwarding"))).trouble


# ── voxd ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        (b"HTTP/1.0 404 x\r\n\r\n<html>", 404, "not a voxd (HTTP 404)"),
        (b"HTTP/1.0 200 x\r\n\r\n[1]", 200, "not a voxd (HTTP 200)"),
        (b'HTTP/1.0 421 x\r\n\r\n{"error": {"message": "See server.allow_host."}}', 421, "See server.allow_host."),
        (b"SSH-2.0-x\r\n", 0, "does not speak HTTP"),
        (b"", 0, "without an answer"),
    ],
)
async def test_somebody_else_answers(said: bytes, code: int, words: str) -> None:
    async with listener(said, hangs_up=True) as (port, _):
        answer = await way.ask_status(Direct(parse_target(f"127.0.0.1:{port}"), "x"))
    assert (answer.code, answer.status) == (code, None)
    assert words in answer.said


async def examine(target: Target, token: str | None = None, **more: Any) -> tuple[bool, dict[str, str]]:
    """What the doctor returns, and of each finding of a whole report the line that it begins with."""
    lines: list[str] = []
    environ = {**os.environ, **more.pop("env", {})}
    good = await doctor(target, token, environ, lines.append, **more)
    found = [line.split(None, 1) for line in lines if line.startswith("  ") and line.split()[0] in set("✓!✗–")]
    assert good is all(mark != "✗" for mark, _ in found)
    return good, {text[:12].strip(): f"{mark} {text[12:]}" for mark, text in found}


async def test_from_a_socket_to_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(way, "SENTENCE", slice(round(7.5 * RATE), round(9.2 * RATE)))  # its answer takes as long
    quick = {"VOXD_ENGINE_OPTIONS": "{echo: {tokens: 5, token_ms: 1}}"}
    with voxd_process("--transcribe", "echo", "--respond", "echo", env=quick) as daemon:
        _, found = await examine(unix_target(daemon.socket))
    assert list(found)[-6:] == ["socket", "token", "engine", "versions", "WebSocket", "speech"]
    assert [found[name][0] for name in list(found)[-6:]] == ["✓"] * 6
    assert found["engine"] == "✓ echo and echo: ready"
    assert "first_text_ms" in found["speech"]
    assert "ttft_user_ms" in found["speech"]


async def test_nobody_there() -> None:
    with short_folder() as folder:
        good, found = await examine(unix_target(folder / "voxd.sock"))
    assert not good
    assert found["socket"].startswith("✗")
    assert found["the rest"] == "– not checked: there is no way to voxd"


async def test_a_wrong_token_from_a_file(tmp_path: Path) -> None:
    """The doctor offers it once, since whoever offers wrong keys often has to wait."""
    with voxd_process("--transcribe", "echo", "--listen", "127.0.0.1:0") as daemon:
        address = daemon.status()["listen"]
        assert isinstance(address, list)
        target = parse_target(str(address[0]))
        good, found = await examine(target, "wrong", token_file=tmp_path / "token")
        token = token_path(environment(daemon.folder)).read_text().strip()
        accepted = await way.ask_status(Direct(target, token))
    assert not good
    assert found["port"].startswith("✓")
    assert found["token"] == "✗ refused"
    assert "engine" not in found
    assert accepted.status is not None
    assert accepted.status.engines == Engines("echo")


async def test_an_ssh_server_that_lets_nobody_in() -> None:
    with sshd(authorized=False) as far:
        good, found = await examine(ssh_target(far.host), env=far.env)
    assert not good
    assert [found[name][0] for name in ("ssh", "SSH server", "tunnel")] == ["✓", "✓", "✗"]
    assert "OpenSSH_" in found["SSH server"]
    assert found["the rest"] == "– not checked: there is no way to voxd"
