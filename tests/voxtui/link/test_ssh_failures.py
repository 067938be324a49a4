"""voxtui.link.ssh_tunnel and voxtui.link.ssh_child where there is no way: each failure provoked for real, and what a
person is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.tunnel import PROTOCOL, Hello, Trouble, dump_line
from tests.support.fakes import short_folder
from tests.support.sshd import SYSTEM_PATH, Sshd, sshd
from tests.support.tunnels import failure, program, saying, tunnel
from voxtui.errors import Misconfigured, Unreachable
from voxtui.link import ssh_child
from voxtui.link.ssh_tunnel import Tunnel
from voxtui.link.target import ssh_target

HELLO = Hello("9.9", PROTOCOL, "/run/voxd.sock", "ready", "", "ek_x", 0)


@pytest.fixture(scope="module")
def box() -> Iterator[Sshd]:
    with sshd() as running:
        yield running


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


@pytest.mark.parametrize("text", ["no-such-ssh -v", "ssh 'without an end", "/"])
async def test_no_ssh(text: str) -> None:
    route = Tunnel(ssh_target("box"), {"VOXTUI_SSH": text})
    assert isinstance(await failure(route), Misconfigured)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"client": ["HostName no-such-host.invalid"]}, Unreachable, "ssh finds no host no-such-host.invalid"),
        ({"authorized": False}, Misconfigured, "lets none of your keys in (it takes: publickey)"),
        ({"known": False}, Misconfigured, "is not known here yet: run `ssh box` once"),
        ({"known": "other"}, Misconfigured, "has changed"),
        ({"client": ["ProxyCommand true"]}, Unreachable, "broke off before ssh could begin"),
        ({"client": ["Frobnicate yes"]}, Misconfigured, "line 2: Bad configuration option: frobnicate"),
        ({"client": ["KexAlgorithms ecdh-sha2-nistp256"]}, Misconfigured, "no method in common"),
        ({"path": SYSTEM_PATH}, Misconfigured, "no voxd to be run on box"),
        ({"far": {"VOXD_SERVER_SOCKET": "/tmp/vx-none/voxd.sock"}}, Unreachable, "On box: no voxd answers at /tmp/vx-"),
        ({"server": "ForceCommand exit 7"}, Unreachable, "ended with status 7, and says: nothing."),
    ],
)
async def test_what_is_wrong_and_what_to_do(options: dict[str, object], kind: type[Unreachable], words: str) -> None:
    server = str(options.pop("server", "KexAlgorithms curve25519-sha256"))
    with sshd(server, **options) as box:  # type: ignore[arg-type]
        async with tunnel(box) as route:
            error = await failure(route)
    assert type(error) is kind
    assert words in str(error)


async def test_nobody_listens() -> None:
    """The route works as soon as a daemon listens."""
    with sshd(far={"VOXD_SERVER_SOCKET": "/tmp/vx-none/voxd.sock"}) as box:
        async with tunnel(box) as route:
            box.stop()
            assert "cannot be reached (Connection refused)" in str(await failure(route))
            box.start()
            assert "On box: no voxd answers" in str(await failure(route))


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (
            "import sys; print(\"Error: No such command 'tunnel'.\", file=sys.stderr); sys.exit(2)",
            Misconfigured,
            "too old",
        ),
        (saying(b'{"type":"hello","version":"0.0.1","protocol":0}\n'), Misconfigured, "upgrade voxd on box"),
        (saying(b'{"type":"hello","version":"99","protocol":99,"new":[]}\n'), Misconfigured, "upgrade voxtui here"),
        (saying(dump_line(Trouble("1", PROTOCOL, "forbidden", "not you"))), Misconfigured, "On box: not you."),
        ("import sys; sys.stdout.buffer.write(bytes(range(256)) * 999)", Unreachable, "status 0"),
    ],
)
async def test_far_programs(box: Sshd, folder: Path, code: str, kind: type[Unreachable], words: str) -> None:
    async with tunnel(box, **program(folder, code)) as route:
        error = await failure(route)
    assert type(error) is kind
    assert words in str(error)


async def test_a_far_side_that_says_nothing(box: Sshd, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_child, "HELLO_S", 1.0)
    async with tunnel(box, **program(folder, "import sys; sys.stdin.read()")) as route:
        assert "No voxd has answered through ssh to box within 1 s" in str(await failure(route))


@pytest.mark.parametrize("path", ["voxd; touch x", "$(id)", "-x", "a b", "'", "voxd\n"])
async def test_where_voxd_is_cannot_be_a_command(box: Sshd, path: str) -> None:
    async with tunnel(box, VOXTUI_REMOTE_VOXD=path) as route:
        assert "VOXTUI_REMOTE_VOXD" in str(await failure(route))


STUBBORN = """
    import os, signal, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(1, {hello!r})
    while True:
        time.sleep(1)
"""


async def test_a_stubborn_ssh_is_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_child, "END_S", 0.2)
    stub = program(folder, STUBBORN.format(hello=dump_line(HELLO)))["VOXTUI_REMOTE_VOXD"]
    child = await ssh_child.Ssh.start("box", [stub])
    assert child.runs
    await child.end()
    assert not child.runs
