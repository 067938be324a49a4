"""The far end of an SSH tunnel: `voxd tunnel`, which `voxtui` starts through ssh on the machine of the daemon.

    --link DIRECTORY   ssh forwards to DIRECTORY/voxd.sock, a name that the client makes up before it can know where the
                       daemon's socket lies: the directory is made, with a symbolic link to that, and removed at the end
    --stdio            where sshd forbids forwarding: standard input and output carry one connection

Beside step 3.  It knows the lines of `shared.tunnel` and the control socket; not SSH, nor what a connection says.
Every connect waits for it, so it imports little.  It uses threads and blocking calls, because standard streams may be
anything, also files, and a daemon that does not answer must not delay the end.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from shared import __version__
from shared.tunnel import BEAT_S, LINK_NAME, PROTOCOL, Beat, Hello, Trouble, TunnelLine, dump_line
from voxd.commands import control

TOKEN_S = 600  # the life of a client secret
LINK = re.compile(r"/tmp/voxd-[A-Za-z0-9_-]{16,64}")
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0", "::"})  # what `localhost` reaches
CHUNK = 64 << 10  # bytes that are on their way in one direction
STDIN, STDOUT = 0, 1


class CannotLink(Exception):
    """The directory of `--link` cannot be made; the text says why."""


# ── what is said ────────────────────────────────────────────────────────────────────────────────────────────────────


class _Status(msgspec.Struct, frozen=True):
    """The parts of `/status` that the client needs."""

    version: str
    pid: int
    state: str
    progress: str
    socket: str
    listen: tuple[str, ...]
    tls: bool = False

    @property
    def tcp(self) -> int | None:
        """The port of the first plain TCP listener that the loopback interface reaches."""
        if self.tls:
            return None
        addresses = (text.rpartition(":") for text in self.listen if not text.startswith("unix:"))
        return next((int(port) for host, _, port in addresses if host in LOOPBACK_HOSTS), None)


class Watch:
    """Watches the daemon at a control socket, and has a client secret that is replaced when half its life is over.

    `clock`: seconds."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._pid = 0  # of the daemon that made the secret: another one does not know it
        self._renew_at = 0.0

    def hello(self) -> Hello:
        """Raises NotRunning, Refused, PermissionError."""
        now = self._status(control.ANSWER_S)
        secret = self._new_secret(now.pid, control.ANSWER_S)
        return Hello(now.version, PROTOCOL, now.socket, now.state, now.progress, *secret, now.tcp)

    def beat(self) -> Beat:
        """The state now.  A daemon that does not answer is `gone`: it may come back at the same path."""
        try:
            now = self._status(BEAT_S)
            if now.pid == self._pid and self._clock() < self._renew_at:
                return Beat(now.state, now.progress)
        except (control.NotRunning, PermissionError):
            return Beat("gone", f"voxd does not answer at {self._path}")
        try:
            return Beat(now.state, now.progress, *self._new_secret(now.pid, BEAT_S))
        except (control.NotRunning, control.ControlRefused, PermissionError):
            return Beat(now.state, now.progress)  # the next beat tries again

    def _status(self, timeout_s: float) -> _Status:
        try:
            return msgspec.convert(control.status(self._path, timeout_s), _Status)
        except msgspec.ValidationError as error:
            raise control.NotRunning(f"what answers at {self._path} is no voxd") from error

    def _new_secret(self, pid: int, timeout_s: float) -> control.ClientSecret:
        secret = control.client_secret(self._path, TOKEN_S, timeout_s)
        self._pid, self._renew_at = pid, self._clock() + TOKEN_S / 2
        return secret


def run(path: Path, link: str | None, *, stdio: bool) -> Trouble | None:
    """Works until standard input is closed (with `stdio`: the connection); returns what kept it from beginning."""
    try:
        if stdio:
            _carry(path)
        else:
            _hold(path, link)
    except control.Busy as reason:
        return failed(f"{reason}; try again in a moment")
    except control.NotRunning as reason:
        start = "start it with `sudo systemctl start voxd` or `voxd start`"
        return Trouble(__version__, PROTOCOL, "not_running", f"{reason}; {start}")
    except PermissionError:
        join = f"`sudo usermod -aG voxd {getpass.getuser()}` and log in again"
        return Trouble(__version__, PROTOCOL, "forbidden", f"{path} belongs to another user; {join}")
    except (control.ControlRefused, CannotLink) as reason:
        return failed(str(reason))
    return None


def failed(message: str) -> Trouble:
    return Trouble(__version__, PROTOCOL, "failed", message)


def write(line: TunnelLine) -> None:
    """Writes a line to standard output at once.  Raises OSError when its reader is gone."""
    _write(STDOUT, dump_line(line))


def _write(to: int, data: bytes) -> None:
    while data:
        data = data[os.write(to, data) :]


# ── beside a forwarding ─────────────────────────────────────────────────────────────────────────────────────────────


def _hold(path: Path, link: str | None) -> None:
    watch = Watch(path)
    hello = watch.hello()
    signalled = _catch_signals()
    with _linked(link, path) if link is not None else contextlib.nullcontext(), contextlib.suppress(ConnectionError):
        write(hello)
        threading.Thread(target=_beat, args=(watch,), daemon=True).start()
        _wait_for_end(signalled)


@contextlib.contextmanager
def _linked(directory: str, path: Path) -> Iterator[None]:
    """Makes the directory with its link, and removes both when the block ends.  Raises CannotLink."""
    if not LINK.fullmatch(directory):
        raise CannotLink(f"--link takes /tmp/voxd- and 16 to 64 letters, digits, - or _, not {directory[:100]!a}")
    try:
        os.mkdir(directory, 0o700)  # nobody else can put anything there, or take its place: /tmp is sticky
    except OSError as error:
        raise CannotLink(f"{directory} cannot be made ({error.strerror}); connect again, under another name") from None
    link = os.path.join(directory, LINK_NAME)
    try:
        os.symlink(path, link)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(link)
        with contextlib.suppress(OSError):  # its owner has put something there
            os.rmdir(directory)


def _catch_signals() -> int:
    """A descriptor that becomes readable when a signal asks for the end; signals interrupt nothing from now on."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return readable


def _beat(watch: Watch) -> None:
    with contextlib.suppress(OSError):  # nobody reads any more; `_wait_for_end` sees that too
        while True:
            time.sleep(BEAT_S)
            write(watch.beat())


def _wait_for_end(signalled: int) -> None:
    """Waits until standard input ends, the reader of standard output is gone, or a signal comes."""
    poll = select.poll()
    poll.register(STDIN, select.POLLIN)
    poll.register(STDOUT, 0)  # errors and hang-ups only
    poll.register(signalled, select.POLLIN)
    while all(which == STDIN and _said_something() for which, _ in poll.poll()):
        pass  # what comes means nothing


def _said_something() -> bool:
    try:
        return bool(os.read(STDIN, CHUNK))
    except OSError:
        return False


# ── instead of a forwarding ─────────────────────────────────────────────────────────────────────────────────────────


def _carry(path: Path) -> None:
    hello = Watch(path).hello()
    with socket.socket(socket.AF_UNIX) as daemon:
        try:
            daemon.connect(str(path))
        except (FileNotFoundError, ConnectionError) as error:
            raise control.NotRunning(f"no voxd answers at {path}") from error
        with contextlib.suppress(ConnectionError):
            write(hello)
            bridge(daemon)


def bridge(daemon: socket.socket) -> None:
    """Carries bytes both ways between the standard streams and a connection, as soon as they are read, until the
    connection ends.  The end of standard input ends only its own direction."""
    threading.Thread(target=_send, args=(daemon,), daemon=True).start()
    with contextlib.suppress(ConnectionError):
        while data := daemon.recv(CHUNK):
            _write(STDOUT, data)


def _send(daemon: socket.socket) -> None:
    with contextlib.suppress(OSError):  # of a daemon that is gone: `bridge` sees that too
        while data := os.read(STDIN, CHUNK):
            daemon.sendall(data)
    with contextlib.suppress(OSError):
        daemon.shutdown(socket.SHUT_WR)
