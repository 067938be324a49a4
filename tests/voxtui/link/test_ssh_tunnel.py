"""voxtui.link.ssh_tunnel through a real sshd, to a real voxd; another far program only where that is what is tested."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shared.tunnel import PROTOCOL, Beat, Hello, dump_line
from tests.support.daemon import Daemon, voxd_process
from tests.support.fakes import short_folder
from tests.support.sshd import BIN, SYSTEM_PATH, Sshd, processes, sshd
from tests.support.tunnels import PATIENCE_S, failure, knows, program, session, tunnel, until, works
from voxtui.errors import Misconfigured, TokenRefused
from voxtui.link import ssh_child
from voxtui.link.route import opened
from voxtui.link.ssh_errors import NoForwarding
from voxtui.link.ssh_tunnel import Tunnel, Way
from voxtui.link.target import Address, Direct, Target, parse_target, ssh_target
from voxtui.link.websocket import dial

WAYS: tuple[Way, ...] = ("unix", "tcp", "stdio")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with voxd_process("--transcribe", "echo", "--listen", "localhost:0") as running:
        yield running


@pytest.fixture(scope="module")
def box(daemon: Daemon) -> Iterator[Sshd]:
    with sshd(far=knows(daemon)) as running:
        yield running


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


# ---- three ways ------------------------------------------------------------------------------------------------------


async def test_the_way_to_a_target() -> None:
    async with opened(parse_target("me@gpu"), "token") as route:
        assert isinstance(route, Tunnel)
    async with opened(parse_target("gpu:8000"), "token") as route:
        assert isinstance(route, Direct)


@pytest.mark.parametrize("way", ["unix", "tcp"])
async def test_connections_share_one_ssh(box: Sshd, way: Way) -> None:
    """A second connection costs no login, and the socket is this user's alone."""
    async with tunnel(box, way) as route:
        address = await route.address(lambda _: None)
        first, second = await session(address), await session(await route.address(lambda _: None))
        assert len(box.sessions()) == 1 * processes_of_a_login()
        await first.close()
        await (await second.ping())
        await second.close()
        if way == "unix":
            assert address.socket is not None
            assert address.socket.stat().st_mode & 0o777 == 0o600
            assert address.socket.parent.stat().st_mode & 0o777 == 0o700
    assert address.socket is None or not address.socket.parent.exists()
    await until(lambda: not box.sessions())


def processes_of_a_login() -> int:
    """sshd gives up root's rights in a process of its own."""
    return 1 if os.getuid() == 0 else 2


async def test_each_connection_of_stdio_is_an_ssh(box: Sshd) -> None:
    async with tunnel(box, "stdio") as route:
        first = await session(await route.address(lambda _: None))
        second = await session(await route.address(lambda _: None))
        assert len(box.sessions()) == 2 * processes_of_a_login()
        await first.close()
        await (await second.ping())
        await second.close()
        await until(lambda: not box.sessions())


async def test_a_port_asks_for_the_token(box: Sshd) -> None:
    """Any user of this machine may connect to it."""
    async with tunnel(box, "tcp") as route:
        address = await route.address(lambda _: None)
        assert address.token
        with pytest.raises(TokenRefused):
            await dial(Address(address.url), "box")


@pytest.mark.parametrize("way", WAYS)
async def test_made_anew_when_it_broke(box: Sshd, way: Way) -> None:
    async with tunnel(box, way) as route:
        link = await session(await route.address(lambda _: None))
        assert box.kill_sessions() > 0
        await link.wait_closed()
        assert await works(route) == []


async def test_made_anew_when_beats_are_missed(box: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    async with tunnel(box) as route:
        first = await route.address(lambda _: None)
        monkeypatch.setattr(ssh_child, "STALE_S", -1.0)
        assert await works(route) == []
        assert first.socket is not None
        assert not first.socket.parent.exists()


# ---- forwarding is forbidden -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "line"),
    [
        ("unix", "AllowStreamLocalForwarding no"),
        ("unix", "DisableForwarding yes"),
        ("tcp", "AllowTcpForwarding no"),
    ],
)
async def test_where_forwarding_is_forbidden(daemon: Daemon, way: Way, line: str) -> None:
    """It is said once; afterwards the other way is taken at once."""
    with sshd(line, far=knows(daemon)) as box:
        async with tunnel(box, way) as route:
            assert await works(route) == ["box forbids forwarding: going through `voxd tunnel --stdio`."]
            assert await works(route) == []


async def test_where_the_daemon_listens_on_no_port(folder: Path) -> None:
    with voxd_process("--transcribe", "echo") as daemon, sshd(far=knows(daemon)) as box:
        async with tunnel(box, "tcp") as route:
            (told,) = await works(route)
    assert told.startswith("The voxd at box has no TCP listener: going through")


async def test_where_the_near_socket_cannot_be_made(box: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """ssh gets no directory to put it in."""
    monkeypatch.setattr("voxtui.link.ssh_tunnel.LINK_NAME", "no-such-directory/voxd.sock")
    async with tunnel(box) as route:
        (told,) = await works(route)
    assert re.match(r"ssh makes no socket here \(.*\): going through", told)


# ---- the daemon loads, or is gone ------------------------------------------------------------------------------------


LOADING = """
    import os, shutil, sys, time
    link = sys.argv[3]
    os.mkdir(link, 0o700)
    os.symlink({socket!r}, link + "/voxd.sock")
    for number, line in enumerate({lines!r}):
        while number and not os.path.exists({go!r} + str(number)):
            time.sleep(0.01)
        os.write(1, line)
    sys.stdin.read()
    shutil.rmtree(link)
"""


async def test_waits_while_it_loads(box: Sshd, daemon: Daemon, folder: Path) -> None:
    """A caller that gives up waiting has not lost the tunnel; what has not changed is not told again."""
    lines = [
        dump_line(Hello("9.9", PROTOCOL, "", "loading", "weights 10 %", "", 0)),
        dump_line(Beat("loading", "weights 10 %")) + dump_line(Beat("loading", "weights\x1b[2J 90 %")),
        dump_line(Beat("ready")),
    ]
    stub = program(folder, LOADING.format(socket=str(daemon.socket), lines=lines, go=f"{folder}/go"))
    told: asyncio.Queue[str] = asyncio.Queue()
    async with tunnel(box, **stub) as route:
        waiting = asyncio.create_task(route.address(told.put_nowait))
        assert await told.get() == "engine still loading: weights 10 %"
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        waiting = asyncio.create_task(route.address(told.put_nowait))
        assert await told.get() == "engine still loading: weights 10 %"
        assert len(box.sessions()) == 1 * processes_of_a_login()
        (folder / "go1").touch()
        assert await told.get() == "engine still loading: weights 90 %"
        (folder / "go2").touch()
        await (await session(await waiting)).close()


LOADING_ONCE = """
    import os, sys
    if os.path.exists({flag!r}):
        os.execv({voxd!r}, ["voxd", "tunnel", "--stdio"])
    open({flag!r}, "w").close()
    os.write(1, {hello!r})
    sys.stdin.read()
"""


async def test_stdio_asks_again_while_it_loads(box: Sshd, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voxtui.link.ssh_tunnel.BEAT_S", 0.05)
    hello = dump_line(Hello("9.9", PROTOCOL, "", "loading", "", "", 0))
    stub = program(folder, LOADING_ONCE.format(flag=f"{folder}/flag", voxd=f"{BIN}/voxd", hello=hello))
    async with tunnel(box, "stdio", **stub) as route:
        assert await works(route) == ["engine still loading"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_daemon_that_ends(folder: Path, way: Way) -> None:
    """The error does not blame the way to it."""
    with voxd_process("--transcribe", "echo", "--listen", "localhost:0") as daemon, sshd(far=knows(daemon)) as box:
        async with tunnel(box, way) as route:
            await works(route)
            daemon.process.terminate()
            assert daemon.ended(PATIENCE_S)
            error = await failure(route)
            assert not isinstance(error, Misconfigured | NoForwarding)
            assert str(error).startswith("On box: no voxd answers at ") or "voxd does not answer at" in str(error)


# ---- the user's own settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_settings_that_are_for_people(daemon: Daemon, folder: Path, way: Way) -> None:
    """The user's settings for their own logins do not keep the tunnel from its own."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        forward = f"127.0.0.1:{busy.getsockname()[1]} 127.0.0.1:1"
        client = [
            f"LocalForward {forward}",
            f"RemoteForward {forward}",
            "RemoteCommand top",
            "RequestTTY force",
            "LogLevel QUIET",
            "ControlMaster auto",
            f"ControlPath {folder}/%C",
            "ControlPersist yes",
            "ExitOnForwardFailure yes",
        ]
        with sshd("Banner /etc/hostname", client=client, far=knows(daemon)) as box:
            async with tunnel(box, way) as route:
                told = await works(route)
                assert os.listdir(folder) == []  # their next login does not go through our ssh
    assert [re.sub(r"\(.*\)", "", line) for line in told] == (
        ["ssh cannot forward to box : going through `voxd tunnel --stdio`."] if way == "tcp" else []
    )


@pytest.mark.parametrize("way", WAYS)
async def test_greetings_of_the_far_shell_are_passed_over(daemon: Daemon, way: Way) -> None:
    greeting = "echo Welcome; head -c 100000 /dev/zero | tr '\\0' x; echo; echo '{}'"
    with sshd(f'ForceCommand {greeting}; eval "$SSH_ORIGINAL_COMMAND"', far=knows(daemon)) as box:
        async with tunnel(box, way) as route:
            assert await works(route) == []


async def test_where_voxd_is_can_be_said(daemon: Daemon) -> None:
    with sshd(path=SYSTEM_PATH, far=knows(daemon)) as box:
        async with tunnel(box, VOXTUI_REMOTE_VOXD=f"{BIN}/voxd") as route:
            assert await works(route) == []


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "zsh", "fish", "tcsh"])
def test_any_login_shell_takes_the_command(folder: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    places = folder / ".local" / "bin"
    places.mkdir(parents=True)
    program(places, "import sys; print(sys.argv[1:])")
    *_, host, far = Tunnel(ssh_target("box"), {})._command("tunnel --link /tmp/voxd-x")
    done = subprocess.run(
        [shell, "-c", far], env={"HOME": str(folder), "PATH": SYSTEM_PATH}, capture_output=True, text=True, check=False
    )
    assert (host, done.stdout) == ("box", "['tunnel', '--link', '/tmp/voxd-x']\n"), done.stderr


# ---- nothing is run that was not meant, nothing is left behind -------------------------------------------------------


def test_a_host_is_no_option(folder: Path) -> None:
    """This holds for a Target made by hand too, and `--` stands before the host."""
    for host in (f"-oProxyCommand=touch {folder}/x", "-F/etc/passwd", "a b", "box\n", ""):
        with pytest.raises(ValueError, match="no host for ssh"):
            Tunnel(Target("ws://localhost", ssh=host), {})
    command = Tunnel(ssh_target("box"), {})._command("tunnel")
    assert command[-3:-1] == ["--", "box"]


HOLDER = """
    import asyncio, os, sys
    from voxtui.link.target import ssh_target
    from voxtui.link.ssh_tunnel import Tunnel

    async def main():
        tunnel = Tunnel(ssh_target("box"), os.environ)
        print((await tunnel.address(print)).socket, flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())
"""


def killed(box: Sshd) -> tuple[int, str]:
    """The ssh and the far directory of a process that was killed."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER)]
    with subprocess.Popen(command, env={**os.environ, **box.env}, stdout=subprocess.PIPE) as holder, ExitStack() as end:
        end.callback(holder.send_signal, signal.SIGKILL)
        assert holder.stdout is not None
        near = Path(os.fsdecode(holder.stdout.readline().strip()))
        (child,) = (pid for pid, parent, _ in processes() if parent == holder.pid)
        far = re.search(r"--link (/tmp/voxd-[\w-]+)", Path(f"/proc/{child}/cmdline").read_text())
        assert far is not None
        assert near.is_socket()
        assert os.path.isdir(far[1])
    shutil.rmtree(near.parent)  # its own it cannot remove
    return child, far[1]


async def test_killed_it_leaves_nothing_running(box: Sshd) -> None:
    child, far = await asyncio.to_thread(killed, box)
    await until(lambda: child not in {pid for pid, _, _ in processes()})
    await until(lambda: not os.path.exists(far))
    await until(lambda: not box.sessions())
