"""voxtui.commands.local: a private daemon is started, awaited, and stopped whatever happens."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fakes import short_folder
from voxtui.commands import local
from voxtui.commands.local import LocalError, answers, private_voxd
from voxtui.link.socket_folder import socket_folder
from voxtui.link.target import Target, unix_target

DAEMON = """
    import json, os, signal, socket, sys
    print("loading the daemon", flush=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen()
    {stubborn}
    for status in [{statuses}] + [200] * 9:
        link = listener.accept()[0]
        link.recv(4096)
        body = json.dumps({{"state": "loading", "progress": f"step {{status}}"}}).encode()
        head = f"HTTP/1.1 {{status}} X\\r\\nContent-Length: {{len(body)}}\\r\\nConnection: close\\r\\n\\r\\n"
        link.sendall(head.encode() + body)
        link.close()
"""
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def daemon(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    def command(socket: Path, _respond: str) -> list[str]:
        return [sys.executable, "-c", textwrap.dedent(code), str(socket)]

    monkeypatch.setattr(local, "_command", command)
    monkeypatch.setattr(local, "NEEDED", ())
    monkeypatch.setattr(local, "LOOK_S", 0.02)


def folder_of(target: Target) -> Path:
    assert target.socket is not None
    return target.socket.parent


async def test_started_awaited_and_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon(monkeypatch, DAEMON.format(statuses="503, 503", stubborn=""))
    told: list[str] = []
    async with private_voxd(told.append) as target:
        folder = folder_of(target)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert await answers(target)
    assert told == ["step 503"]
    assert not folder.exists()
    assert not await answers(target)


async def test_one_that_will_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "STOP_S", 0.05)
    daemon(monkeypatch, DAEMON.format(statuses="", stubborn=f"{STUBBORN}; print(os.getpid(), flush=True)"))
    async with private_voxd(lambda _: None) as target:
        number = int((folder_of(target) / "voxd.log").read_text().split()[-1])
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


async def test_stopped_when_the_command_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon(monkeypatch, DAEMON.format(statuses="", stubborn=""))
    ready: asyncio.Future[Target] = asyncio.get_running_loop().create_future()

    async def command() -> None:
        async with private_voxd(lambda _: None) as target:
            ready.set_result(target)
            await asyncio.Event().wait()

    task = asyncio.create_task(command())
    await asyncio.wait([ready, task], return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        await task  # raises what went wrong
    target = await ready
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not folder_of(target).exists()


async def test_one_that_dies_tells_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon(monkeypatch, "import sys; sys.exit('no weights \\x1b[31mhere')")
    with pytest.raises(LocalError, match=r"ended at once \(exit 1\)\.\n    no weights here"):
        async with private_voxd(lambda _: None):
            pass


async def test_one_that_is_never_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "START_S", 0.5)
    daemon(monkeypatch, DAEMON.format(statuses="*[503] * 999", stubborn=""))
    with pytest.raises(LocalError, match=r"not ready after .*\n    loading the daemon"):
        async with private_voxd(lambda _: None):
            pass


async def test_no_engine_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "NEEDED", ("no_such_engine",))
    with pytest.raises(LocalError, match=r"pip install .*\[whisper\]"):
        async with private_voxd(lambda _: None):
            pass


async def test_nobody_answers(tmp_path: Path) -> None:
    assert not await answers(unix_target(tmp_path / "none.sock"))


def test_a_long_directory_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The path of a socket may have about a hundred bytes."""
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(long))
    assert socket_folder() == "/tmp"


@pytest.fixture
def short() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
async def test_it_does_not_outlive_a_client_that_is_killed(short: Path) -> None:
    """SIGKILL leaves the client no time to stop anything."""
    script = textwrap.dedent(f"""
        import asyncio, sys, textwrap
        from voxtui.commands import local
        code = textwrap.dedent({DAEMON.format(statuses="", stubborn="print(os.getpid(), flush=True)")!r})
        local._command = lambda socket, respond: [sys.executable, "-c", code, str(socket)]
        local.NEEDED = ()
        async def main():
            async with local.private_voxd(print) as target:
                print((target.socket.parent / "voxd.log").read_text().split()[-1], flush=True)
                await asyncio.Event().wait()
        asyncio.run(main())
    """)
    pipe = asyncio.subprocess.PIPE
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(short)}  # its directory stays behind
    client = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=pipe, env=environ)
    assert client.stdout is not None
    daemon_pid = int(await client.stdout.readline())
    handle = os.pidfd_open(daemon_pid)
    try:
        client.kill()
        await client.wait()
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(handle, ended.set)
        async with asyncio.timeout(60):
            await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(handle)
        os.close(handle)
