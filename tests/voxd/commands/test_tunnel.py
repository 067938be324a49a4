"""`voxd tunnel`: a real one beside a real daemon; what it says, the link it makes, the connection it carries."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import unix_connect

from shared import __version__
from shared.tunnel import LINK_NAME, PROTOCOL, Beat, Hello, Trouble, TunnelLine, parse_line
from tests.support.daemon import Daemon, environment, voxd_process
from tests.support.fakes import short_folder
from tests.support.imports import loaded_after
from voxd.commands import control
from voxd.commands.tunnel import TOKEN_S, Watch

ECHO = ("--transcribe", "echo", "--respond", "none")
TUNNEL = [sys.executable, "-m", "voxd", "tunnel"]
WAIT_S = 120.0
PIPE = asyncio.subprocess.PIPE
NOBODY = 65_534

Child = asyncio.subprocess.Process


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with voxd_process(*ECHO, "--listen", "127.0.0.1:0") as running:
        yield running


@pytest.fixture
def link() -> Iterator[Path]:
    """A link's name as the client makes it up; nothing of it stays behind."""
    path = Path(f"/tmp/voxd-{secrets.token_urlsafe(18)}")
    yield path
    assert not is_there(path)


def is_there(path: Path) -> bool:
    """Whether the link is there, even if it leads nowhere."""
    return os.path.lexists(path)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@asynccontextmanager
async def tunnel(at: Path, *arguments: str) -> AsyncIterator[Child]:
    """A child whose standard input stays open; it is gone afterwards."""
    command = [*TUNNEL, "--socket", str(at), *arguments]
    child = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, env=environment(at.parent))
    try:
        yield child
    finally:
        if child.returncode is None:
            child.terminate()
        await child.wait()


async def said(child: Child) -> TunnelLine | None:
    """The next line that the child wrote."""
    assert child.stdout is not None
    async with asyncio.timeout(WAIT_S):
        return parse_line(await child.stdout.readline())


async def hello_of(child: Child) -> Hello:
    line = await said(child)
    assert isinstance(line, Hello), line
    return line


async def beat_with(child: Child, state: str) -> Beat:
    """The first beat of this state."""
    while True:
        line = await said(child)
        assert isinstance(line, Beat), line
        if line.state == state:
            return line


async def end_of(child: Child) -> int:
    async with asyncio.timeout(WAIT_S):
        return await child.wait()


def close_stdin(child: Child) -> None:
    assert child.stdin is not None
    child.stdin.close()


def opens(key: str, port: int) -> bool:
    """Whether a TCP listener lets this key in."""
    asking = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    asking.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
    answer = asking.getresponse()
    answer.read()
    asking.close()
    return answer.status == 200


# ── the lines ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_it_says_where_the_daemon_is_and_hands_over_a_key(daemon: Daemon) -> None:
    async with tunnel(daemon.socket) as child:
        hello = await hello_of(child)
        status = daemon.status()
        assert status["listen"] == [f"127.0.0.1:{hello.tcp}"]
        assert (hello.version, hello.protocol, hello.socket) == (__version__, PROTOCOL, str(daemon.socket))
        assert (hello.state, hello.progress) == (status["state"], status["progress"])
        assert hello.tcp is not None
        assert opens(hello.token, hello.tcp)
        assert not opens(hello.token[:-1], hello.tcp)

        assert await said(child) == Beat(state="ready", progress=hello.progress)
        close_stdin(child)
        assert await end_of(child) == 0


@pytest.mark.parametrize(
    ("listen", "tls", "port"),
    [
        ([], False, None),
        (["unix:/run/x:8000", "10.0.0.1:8000"], False, None),  # nothing that `localhost` reaches
        (["10.0.0.1:8000", "0.0.0.0:8001", "localhost:8002"], False, 8001),
        (["::1:8000"], False, 8000),
        (["127.0.0.1:8000"], True, None),  # its certificate is for another name
    ],
)
def test_the_port_is_one_that_localhost_reaches(
    monkeypatch: pytest.MonkeyPatch, listen: list[str], tls: bool, port: int | None
) -> None:
    status = {"version": "9", "pid": 7, "state": "ready", "progress": "", "socket": "/s", "listen": listen, "tls": tls}
    monkeypatch.setattr(control, "status", lambda *_: status)
    monkeypatch.setattr(control, "client_secret", lambda *_: control.ClientSecret("ek_x", 1))
    assert Watch(Path("/s")).hello().tcp == port


def test_the_key_is_renewed_when_it_has_lived_half_its_life(daemon: Daemon) -> None:
    now = [0.0]
    watch = Watch(daemon.socket, lambda: now[0])
    hello = watch.hello()
    now[0] += TOKEN_S / 2 - 1
    assert watch.beat().token is None
    now[0] += 1
    renewed = watch.beat()
    assert renewed.token not in (None, hello.token)
    assert renewed.expires_at is not None
    assert renewed.expires_at >= hello.expires_at
    assert watch.beat().token is None


def test_a_key_that_cannot_be_made_is_asked_for_again(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    watch = Watch(daemon.socket, lambda: now[0])
    progress = watch.hello().progress
    now[0] += TOKEN_S
    with monkeypatch.context() as limited:
        limited.setattr("voxd.commands.tunnel.TOKEN_S", 1)  # less than the daemon allows
        assert watch.beat() == Beat("ready", progress)
    assert watch.beat().token


def test_a_watch_outlives_the_daemon_and_finds_the_next() -> None:
    with voxd_process(*ECHO) as first:
        watch = Watch(first.socket)
        key = watch.hello().token
        first.process.kill()
        first.process.wait(WAIT_S)
        gone = watch.beat()
        assert (gone.state, gone.token) == ("gone", None)
        assert str(first.socket) in gone.progress
        with restarted(first):
            tokens = []
            while (beat := watch.beat()).state != "ready":
                tokens.append(beat.token)
                threading.Event().wait(0.05)  # to ask without a pause would take the time that it needs to start
            assert any(token not in (None, key) for token in (*tokens, beat.token))


@pytest.mark.slow
async def test_it_outlives_the_daemon_and_finds_the_next(link: Path) -> None:
    with voxd_process(*ECHO) as first:
        async with tunnel(first.socket, "--link", str(link)) as child:
            hello = await hello_of(child)
            assert hello.tcp is None
            first.process.kill()
            gone = await beat_with(child, "gone")
            assert str(first.socket) in gone.progress
            assert gone.token is None

            with restarted(first) as pid:
                assert await new_key(child) != hello.token
                await beat_with(child, "ready")
                assert control.status(link / LINK_NAME)["pid"] == pid


@contextmanager
def restarted(daemon: Daemon) -> Iterator[int]:
    """Runs the same command again; returns its process id."""
    with daemon.log.open("ab") as log:
        process = subprocess.Popen(daemon.process.args, stdout=log, stderr=log, env=environment(daemon.folder))
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(WAIT_S)


async def new_key(child: Child) -> str:
    while True:
        line = await said(child)
        assert isinstance(line, Beat), line
        if line.token:
            return line.token


# ── the link ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_link_leads_to_the_daemon(daemon: Daemon, link: Path) -> None:
    async with tunnel(daemon.socket, "--link", str(link)) as child:
        await hello_of(child)
        assert mode(link) == 0o700
        assert control.status(link / LINK_NAME)["pid"] == daemon.process.pid
        async with unix_connect(str(link / LINK_NAME), "ws://localhost/v1/realtime") as peer:
            assert json.loads(await peer.recv())["type"] == "session.created"
        close_stdin(child)
        assert await end_of(child) == 0
        assert not is_there(link)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
async def test_a_signal_ends_it_in_order(daemon: Daemon, link: Path, number: int) -> None:
    async with tunnel(daemon.socket, "--link", str(link)) as child:
        await hello_of(child)
        child.send_signal(number)
        assert await end_of(child) == 0
        assert not is_there(link)


async def test_nobody_reads_any_more(daemon: Daemon, link: Path) -> None:
    """The child ends even without a heartbeat that fails, while standard input is still open."""
    readable, writable = os.pipe()
    command = [*TUNNEL, "--socket", str(daemon.socket), "--link", str(link)]
    child = await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=writable, env=environment(daemon.folder), start_new_session=True
    )
    os.close(writable)
    assert isinstance(parse_line(os.read(readable, 4096)), Hello)
    os.close(readable)
    assert await end_of(child) == 0
    assert not is_there(link)


async def test_input_means_nothing(daemon: Daemon, link: Path) -> None:
    async with tunnel(daemon.socket, "--link", str(link)) as child:
        await hello_of(child)
        assert child.stdin is not None
        child.stdin.write(b"x" * 300_000)
        await child.stdin.drain()
        assert isinstance(await said(child), Beat)
        close_stdin(child)
        assert await end_of(child) == 0


GOOD = "/tmp/voxd-0123456789abcdef"


@pytest.mark.parametrize(
    "name",
    [
        "voxd-0123456789abcdef",
        "/tmp/../tmp/voxd-0123456789abcdef",
        "/tmp/voxd-0123456789/abcdef",
        "/tmp/voxd-../../etc/aaaaaaaaaaaaaaaa",
        "/tmp/voxd-short",
        "/tmp/voxd-" + "x" * 65,
        "/home/voxd-0123456789abcdef",
        GOOD + "\n",
        "",
    ],
)
def test_other_names_are_refused(daemon: Daemon, name: str) -> None:
    refused, status = trouble_of(daemon, "--link", name)
    assert (refused.code, status) == ("failed", 1)
    assert "/tmp/voxd- and 16 to 64" in refused.message
    if name:
        assert not is_there(Path(name))


def trouble_of(daemon: Daemon, *arguments: str) -> tuple[Trouble, int]:
    command = [*TUNNEL, *arguments]
    done = subprocess.run(
        command if "--config" in arguments else [*command, "--socket", str(daemon.socket)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(daemon.folder),
        timeout=WAIT_S,
        check=False,
    )
    line = parse_line(done.stdout)
    assert isinstance(line, Trouble), done
    assert (line.version, line.protocol) == (__version__, PROTOCOL)
    return line, done.returncode


def test_what_is_there_is_left_alone(daemon: Daemon, link: Path, tmp_path: Path) -> None:
    link.mkdir(0o755)
    assert "cannot be made" in trouble_of(daemon, "--link", str(link))[0].message
    assert list(link.iterdir()) == []
    link.rmdir()

    link.symlink_to(tmp_path)
    assert "cannot be made" in trouble_of(daemon, "--link", str(link))[0].message
    assert link.is_symlink()
    assert list(tmp_path.iterdir()) == []
    link.unlink()


# ── no tunnel ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_nobody_answers(link: Path) -> None:
    with short_folder() as folder:
        async with tunnel(folder / "voxd.sock", "--link", str(link)) as child:
            line = await said(child)
            assert isinstance(line, Trouble)
            assert line.code == "not_running"
            assert str(folder / "voxd.sock") in line.message
            assert "sudo systemctl start voxd" in line.message
            assert await end_of(child) == 3


@pytest.mark.parametrize(
    "body", [b"[1]", b"null", b"no JSON", b'{"version": 1, "pid": "x"}', b'{"version": "0", "state": "ready"}']
)
async def test_what_answers_is_no_voxd(body: bytes) -> None:
    with short_folder() as folder:
        async with stranger(folder / "s", body), tunnel(folder / "s") as child:
            line = await said(child)
            assert isinstance(line, Trouble)
            assert line.code == "not_running"
            assert await end_of(child) == 3


@asynccontextmanager
async def stranger(path: Path, body: bytes) -> AsyncIterator[None]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    async with await asyncio.start_unix_server(answer, path):
        yield


AS_NOBODY = """
    import os, sys
    from pathlib import Path
    import shared.config, voxd.cli, voxd.commands.control, voxd.commands.tunnel
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid({nobody})
        os.setuid({nobody})
    shared.config.SYSTEM_SOCKET = Path("{path}")
    sys.argv = ["voxd", "tunnel"]
    voxd.cli.main()
"""


@pytest.mark.parametrize("closed", ["voxd.sock", "."])
def test_it_belongs_to_another_user(closed: str) -> None:
    """The system's socket, or the directory that it lies in, is not for this user."""
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = folder / "run" / "voxd.sock"
        path.parent.mkdir()
        listener.bind(str(path))
        listener.listen()
        folder.chmod(0o755)
        (path.parent / closed).chmod(0)  # root passes all the same: it becomes somebody else
        script = textwrap.dedent(AS_NOBODY.format(nobody=NOBODY, path=path))
        env = environment(folder, {"LOGNAME": "ann"})
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=env, timeout=WAIT_S, check=False)
        path.parent.chmod(0o700)
    line = parse_line(done.stdout)
    assert isinstance(line, Trouble), done
    assert (line.code, done.returncode) == ("forbidden", 1)
    assert f"{path} belongs to another user; `sudo usermod -aG voxd ann`" in line.message


def test_broken_settings_are_a_trouble_too(daemon: Daemon, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("server:\n  nonsense: 1\n")
    line, status = trouble_of(daemon, "--config", str(config))
    assert (line.code, status) == ("failed", 78)
    assert f"{config}:2:3" in line.message


def test_it_imports_little() -> None:
    """Each connection through ssh waits for this command to start."""
    loaded = loaded_after("import shared.config, voxd.cli, voxd.commands.tunnel")
    assert {"voxd.commands.tunnel", "msgspec"} <= loaded
    assert not {"starlette", "uvicorn", "numpy", "websockets", "asyncio"} & loaded


def test_link_and_stdio_exclude_each_other(daemon: Daemon) -> None:
    command = [*TUNNEL, "--link", GOOD, "--stdio"]
    done = subprocess.run(command, capture_output=True, env=environment(daemon.folder), timeout=WAIT_S, check=False)
    assert done.returncode == 2
    assert b"exclude each other" in done.stderr
