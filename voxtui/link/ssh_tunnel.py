"""The way to a voxd on another machine, through the user's own ssh: a `Route`.  Before step 2 of a packet's path.

    unix    a UNIX socket here is forwarded to the daemon's: one ssh for all connections
    tcp     where there are no UNIX sockets: a port here, to the daemon's TCP listener, with a token that ssh brought
    stdio   where forwarding is forbidden: one ssh for each connection, which is its standard input and output

It knows what ssh must be told, and when a way must be made anew; not what is said on a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shared.safe_text import safe_line
from shared.tunnel import BEAT_S, LINK_NAME
from voxtui.errors import Misconfigured, Unreachable
from voxtui.link.http_client import NoAnswer, get
from voxtui.link.socket_folder import socket_folder
from voxtui.link.ssh_child import Ssh, still_loading
from voxtui.link.ssh_errors import NoForwarding, last_words
from voxtui.link.target import ENDPOINT, PORT, SSH_HOST, Address, Target

PROBE_S = 5.0  # for an answer to the first request through a tunnel
TRIES = 3  # with an ssh that was already there, with a new one, and with one that knows the port
# Folders where a shell without a login does not look: `pip install --user`, the system's service, `make install`.
PLACES = "$HOME/.local/bin:/opt/voxd/current/bin:/usr/local/bin"
PROGRAM = re.compile(r"[A-Za-z0-9_./~+][A-Za-z0-9_./~+-]*")
# The command line goes before ssh_config, whose own forwardings may stay: with ExitOnForwardFailure one of them that is
# in use already would end our ssh too, so only `tcp` has it (somebody else's port must not get the token).
OPTIONS = (
    "BatchMode=yes",  # a question could only be asked on the screen that is ours
    "ControlMaster=no",
    "ControlPath=none",
    "StreamLocalBindUnlink=yes",
    "StreamLocalBindMask=0177",
    "ServerAliveInterval=2",
    "ServerAliveCountMax=2",
    "ConnectTimeout=10",
    "IPQoS=none",  # without a terminal ssh asks for the slow lane
    "Compression=no",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "LogLevel=INFO",  # so that it says why, whatever ssh_config says
)

Tell = Callable[[str], None]
Way = Literal["unix", "tcp", "stdio"]


def ssh_command(environ: Mapping[str, str]) -> list[str]:
    """The command of the user's ssh: VOXTUI_SSH, words as in a shell (`ssh -F /path`), else `ssh`.  Raises
    Misconfigured."""
    text = environ.get("VOXTUI_SSH", "")
    try:
        command = shlex.split(text) or ["ssh"]
    except ValueError as error:
        raise Misconfigured(f"VOXTUI_SSH={text!a} is no command: {error}.") from None
    if shutil.which(command[0]) is None:
        raise Misconfigured(
            f"There is no program {safe_line(command[0])} here: install OpenSSH's client (openssh-client), or say with "
            "VOXTUI_SSH where it is."
        )
    return command


class Tunnel:
    """A tunnel through ssh.  `environ`: its VOXTUI_SSH and VOXTUI_REMOTE_VOXD are read.  `way`: which of the three to
    begin with; `stdio` takes over where forwarding turns out to be forbidden."""

    def __init__(self, target: Target, environ: Mapping[str, str], way: Way | None = None) -> None:
        if target.ssh is None or not SSH_HOST.fullmatch(target.ssh):
            raise ValueError(f"{target.ssh!r} is no host for ssh")
        self.label = target.label
        self.udp = False
        self._host, self._url, self._environ = target.ssh, target.url, environ
        self._way: Way = way or ("tcp" if sys.platform == "win32" else "unix")
        self._far_port = PORT  # of the daemon's TCP listener
        self._forwarding: _Forwarding | None = None
        self._carriers: list[Ssh] = []
        self._one = asyncio.Lock()  # one of those who ask opens the way, the others wait

    async def address(self, tell: Tell) -> Address:
        """The address for a connection now; waits while the daemon loads.  Raises Unreachable, Misconfigured."""
        async with self._one:
            if self._way == "stdio":
                return await self._carried(tell)
            try:
                return await self._forwarded(tell)
            except NoForwarding as reason:
                why = str(reason)
            address = await self._carried(tell)
            self._way = "stdio"
            tell(f"{why.rstrip('.')}: going through `voxd tunnel --stdio`.")
            await self._hang_up()
            return address

    async def close(self) -> None:
        """Ends every ssh."""
        carriers, self._carriers = self._carriers, []
        await asyncio.gather(self._hang_up(), *(ssh.end() for ssh in carriers))

    # ---- unix, tcp ---------------------------------------------------------------------------------------------------

    async def _forwarded(self, tell: Tell) -> Address:
        """An address at this end that a request has just gone through.  Raises NoForwarding."""
        for _ in range(TRIES):
            new = self._forwarding is None or not self._forwarding.ssh.lives
            if new:
                await self._hang_up()
                self._forwarding = await self._forward()
            assert self._forwarding is not None
            ssh = self._forwarding.ssh
            if self._way == "tcp" and ssh.hello.tcp != self._far_port:
                if ssh.hello.tcp is None:
                    raise NoForwarding(f"The voxd at {self._host} has no TCP listener")
                self._far_port = ssh.hello.tcp
                await self._hang_up()
                continue
            await ssh.ready(tell)
            address = self._forwarding.address(self._url)
            answer = await _probe(address)
            if answer == "voxd":
                return address
            if ssh.state == "gone":
                raise Unreachable(f"On {self._host}: {safe_line(ssh.progress)}; see `voxd status` there.")
            if new and ssh.runs:
                # The daemon behind it is well, and sshd's words are the same for a socket that is not there.
                if answer == "closed":
                    raise NoForwarding(f"{self._host} forbids forwarding")
                raise NoForwarding(f"ssh makes no socket here ({last_words(ssh.said)})")
            await self._hang_up()
        raise Unreachable(f"The connection to {self._host} was lost while it was being made.")

    async def _forward(self) -> _Forwarding:
        with contextlib.ExitStack() as unless_it_stands:
            if self._way == "tcp":
                port, folder = _free_port(), None
                near, far, program = f"127.0.0.1:{port}", f"localhost:{self._far_port}", "tunnel"
            else:
                port, folder = 0, tempfile.TemporaryDirectory(prefix="voxd-", dir=socket_folder())
                unless_it_stands.callback(folder.cleanup)
                link = f"/tmp/voxd-{secrets.token_urlsafe(16)}"
                near, far, program = f"{folder.name}/{LINK_NAME}", f"{link}/{LINK_NAME}", f"tunnel --link {link}"
            strict = f"ExitOnForwardFailure={'yes' if self._way == 'tcp' else 'no'}"
            ssh = await Ssh.start(self._host, self._command(program, "-o", strict, "-L", f"{near}:{far}"))
            unless_it_stands.pop_all()
        ssh.follow()
        return _Forwarding(ssh, folder, port)

    async def _hang_up(self) -> None:
        """Ends the ssh that forwards, if there is one."""
        forwarding, self._forwarding = self._forwarding, None
        if forwarding is not None:
            await forwarding.end()

    # ---- stdio -------------------------------------------------------------------------------------------------------

    async def _carried(self, tell: Tell) -> Address:
        """An open socket to the daemon, once that no longer loads."""
        for ended in [ssh for ssh in self._carriers if not ssh.runs]:
            self._carriers.remove(ended)
            await ended.end()
        shown = None
        while True:
            ssh = await Ssh.start(self._host, self._command("tunnel --stdio", "-o", "ClearAllForwardings=yes"))
            self._carriers.append(ssh)
            if ssh.state != "loading":
                return Address(self._url, open=ssh.carry())
            if ssh.progress != shown:
                shown = ssh.progress
                tell(still_loading(shown))
            self._carriers.remove(ssh)
            await ssh.end()
            await asyncio.sleep(BEAT_S)

    def _command(self, words: str, *more: str) -> list[str]:
        """The argument list of ssh.  The far command is quoted for any login shell; a POSIX shell runs the rest of
        it."""
        program = self._environ.get("VOXTUI_REMOTE_VOXD") or "voxd"
        if not PROGRAM.fullmatch(program):
            raise Misconfigured(
                f"VOXTUI_REMOTE_VOXD={program!a} is no path: letters, digits and _ . / ~ + - may be in it."
            )
        far = f"""exec sh -c 'PATH="$PATH:{PLACES}"; export PATH; exec {program} {words}'"""
        options = [word for option in OPTIONS for word in ("-o", option)]
        return [*ssh_command(self._environ), "-T", *options, *more, "--", self._host, far]


@dataclass(frozen=True, slots=True)
class _Forwarding:
    """An ssh that forwards, and its near end: a socket in the directory, or a port."""

    ssh: Ssh
    folder: tempfile.TemporaryDirectory[str] | None
    port: int

    def address(self, url: str) -> Address:
        if self.folder is not None:
            return Address(url, Path(self.folder.name) / LINK_NAME)
        return Address(f"ws://127.0.0.1:{self.port}{ENDPOINT}", token=self.ssh.token)

    async def end(self) -> None:
        try:
            await self.ssh.end()
        finally:
            if self.folder is not None:
                self.folder.cleanup()


async def _probe(address: Address) -> Literal["voxd", "closed", "nobody"]:
    """What GET /health brings: an answer, a connection without an answer, or no connection."""
    try:
        async with asyncio.timeout(PROBE_S):
            with contextlib.suppress(ValueError):  # not HTTP: opening a session will say so better
                await get(address, "/health")
    except (NoAnswer, TimeoutError):
        return "closed"
    except OSError:
        return "nobody"
    return "voxd"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
