"""A real sshd of one's own on loopback, and the ssh_config with which the user's own `ssh` reaches it as `box`.

The far side is this machine and this user: in its environment, what a test chooses.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import pytest

START_S = 120.0
STOP_S = 60.0
TICK_S = 0.05
BIN = str(Path(sys.executable).parent)  # where the `voxd` under test is
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


class Sshd:
    """`env`: what voxtui must find in its environment; `host`: what it must call the far side."""

    host = "box"

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "sshd.log"
        self.folder = folder
        self.config = folder / "ssh_config"
        self.env = {"VOXTUI_SSH": f"ssh -F {self.config}"}

    def start(self) -> None:
        """The listener; returns when it listens."""
        before = self.log().count("Server listening")
        command = [self._program, "-D", "-f", str(self.folder / "sshd_config"), "-E", str(self._log)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        latest = time.monotonic() + START_S
        while self.log().count("Server listening") == before:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(TICK_S)
                raise AssertionError(f"sshd ended with status {self._process.returncode}:\n{self.log()}")
            assert time.monotonic() < latest, f"sshd does not listen after {START_S} s:\n{self.log()}"

    def stop(self) -> None:
        """The listener: new connections are refused, sessions live on."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(STOP_S)
            self._process = None

    def kill_sessions(self) -> int:
        """What a broken network does to all connections; how many processes of sshd that were."""
        sessions = self.sessions()
        for pid in sessions:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(sessions)

    def sessions(self) -> list[int]:
        """The processes of sshd below the listener; what they run for their clients is none of them."""
        if self._process is None:
            return []
        found, new = [], [self._process.pid]
        there_are = list(processes())
        while new:
            new = [pid for pid, parent, name in there_are if parent in new and name.startswith("sshd")]
            found += new
        return found

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def processes() -> Iterator[tuple[int, int, str]]:
    """(pid, parent's pid, name) of each process there is."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            pid, _, rest = file.read_text(errors="replace").partition(" (")
            name, _, fields = rest.rpartition(") ")
            yield int(pid), int(fields.split()[1]), name


@contextmanager
def sshd(
    *server: str,
    client: Sequence[str] = (),
    path: str = f"{BIN}:{SYSTEM_PATH}",
    far: Mapping[str, str] = {},
    authorized: bool = True,
    known: bool | Literal["other"] = True,
) -> Iterator[Sshd]:
    """`server`, `client`: lines of sshd_config and ssh_config that go before the usual ones.

    `path`, `far`: PATH and more of the environment in which it runs commands; a daemon is made known to `voxd tunnel`
    by `far={"VOXD_SERVER_SOCKET": str(daemon.socket)}`.  `authorized`: whether the user's key is.  `known`: whether its
    host key is in known_hosts, or another one."""
    program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None or shutil.which("ssh") is None:
        pytest.skip("sshd or ssh is not installed (openssh-server, openssh-client)")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it wants one when it starts as root
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as name:
        folder = Path(name)
        (folder / "home").mkdir()
        for key in ("host_key", "user_key", "other_key"):
            _make_key(folder / key)
        port = _free_port()
        user_key = (folder / "user_key.pub").read_text() if authorized else ""
        (folder / "authorized_keys").write_text(user_key)
        host_key = {True: "host_key", "other": "other_key", False: None}[known]
        (folder / "known_hosts").write_text(
            f"[127.0.0.1]:{port} {(folder / f'{host_key}.pub').read_text()}" if host_key else ""
        )
        environment = {"HOME": str(folder / "home"), "XDG_RUNTIME_DIR": str(folder / "home"), "PATH": path, **far}
        (folder / "sshd_config").write_text("\n".join([*server, *_server_lines(folder, port, environment), ""]))
        (folder / "ssh_config").write_text("\n".join(["Host box", *client, *_client_lines(folder, port), ""]))
        running = Sshd(program, folder)
        try:
            running.start()
            yield running
        finally:
            running.kill_sessions()
            running.stop()


def _server_lines(folder: Path, port: int, environment: Mapping[str, str]) -> list[str]:
    variables = " ".join(f'"{name}={value}"' for name, value in environment.items())
    return [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {folder}/host_key",
        f"PidFile {folder}/sshd.pid",
        f"AuthorizedKeysFile {folder}/authorized_keys",
        "AuthenticationMethods publickey",
        "PermitRootLogin prohibit-password",
        "StrictModes no",  # the directory is one of /tmp
        "UsePAM no",
        "UseDNS no",
        "PrintMotd no",
        "MaxStartups 100",
        "LogLevel VERBOSE",
        f"SetEnv {variables}",
    ]


def _client_lines(folder: Path, port: int) -> list[str]:
    return [
        "HostName 127.0.0.1",
        f"Port {port}",
        f"User {getpass.getuser()}",
        f"IdentityFile {folder}/user_key",
        "IdentitiesOnly yes",
        "IdentityAgent none",
        f"UserKnownHostsFile {folder}/known_hosts",
        "GlobalKnownHostsFile /dev/null",
    ]


def _make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
