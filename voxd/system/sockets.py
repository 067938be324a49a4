"""Listening sockets: those that systemd hands over, and those that voxd opens itself.  Not in the path.

It knows addresses and file permissions; not what is served on a socket.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from shared.settings import Tcp

BACKLOG = 4096  # connections that the kernel keeps until they are accepted; Linux allows as many by default
PROBE_S = 1.0  # for a running voxd to accept a connection
PRIVATE = 0o177  # the umask of a UNIX socket: only its owner may connect
FOLDER_MODE = 0o700


class CannotStart(Exception):
    """A listening socket cannot be opened; the message says which one and why."""


class AlreadyRunning(Exception):
    """Another voxd is listening on the control socket."""


class Listener(NamedTuple):
    """A listening socket and its address.

    `kept`: it belongs to systemd, so it outlives this process, and clients that connect meanwhile wait.  `file`: the
    identity of the socket's file, for a UNIX socket that voxd has made itself."""

    address: Tcp | Path
    sock: socket.socket
    kept: bool = False
    file: tuple[int, int, int] | None = None


def handed_over(inherited: Sequence[socket.socket]) -> tuple[Listener, ...]:
    """The sockets that systemd has opened.  Raises CannotStart for one that no client can connect to."""
    return tuple(Listener(_address(sock), sock, kept=True) for sock in inherited)


def _address(sock: socket.socket) -> Tcp | Path:
    name = sock.getsockname()
    if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
        raise CannotStart(
            f"systemd handed over a socket that is not a stream: {name!a} (see ListenStream= in voxd.socket)"
        )
    if sock.family != socket.AF_UNIX:
        return Tcp(name[0], name[1])
    if not isinstance(name, str) or not name.startswith("/"):
        raise CannotStart(f"systemd handed over a socket without a path: {name!a} (see ListenStream= in voxd.socket)")
    return Path(name)


def listeners(wanted: Sequence[Tcp | Path], kept: Sequence[Listener]) -> tuple[Listener, ...]:
    """A socket for each wanted address, in their order, then the others that systemd has handed over.

    Raises AlreadyRunning, CannotStart."""
    there = {each.address: each for each in kept}
    chosen = list[Listener]()
    with contextlib.ExitStack() as undone:  # closes the sockets opened so far if a later one fails
        for address in wanted:
            if address in there:
                chosen.append(there[address])
                continue
            chosen.append(made := _bound(address))
            undone.callback(discard, (made,))
            undone.callback(made.sock.close)
        undone.pop_all()
    return (*chosen, *(each for each in kept if each.address not in wanted))


def discard(given: Sequence[Listener]) -> None:
    """Removes the files of the sockets that voxd has made, but not one that another voxd has put in their place."""
    for each in given:
        if isinstance(each.address, Path) and each.file is not None:
            with _alone_in(each.address.parent), contextlib.suppress(FileNotFoundError):
                if _identity(each.address) == each.file:
                    each.address.unlink()


def _identity(path: Path) -> tuple[int, int, int]:
    """Device, inode and time of modification, for the number of a removed inode is used again."""
    found = path.stat(follow_symlinks=False)
    return found.st_dev, found.st_ino, found.st_mtime_ns


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Locks a folder, so that no other voxd makes or removes a socket between a check and the action that follows it.
    A folder that cannot be locked is used without a lock."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _bound(address: Tcp | Path) -> Listener:
    if isinstance(address, Path):
        return Listener(address, _bind_unix(address), file=_identity(address))
    sock = _bind_tcp(address)
    return Listener(Tcp(address.host, sock.getsockname()[1]), sock)  # the system has chosen a number for port 0


def _bind_unix(path: Path) -> socket.socket:
    """A listening socket that only this user can open."""
    sock = socket.socket(socket.AF_UNIX)
    undone = contextlib.ExitStack()
    undone.callback(sock.close)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
        with undone, _alone_in(path.parent):
            if path.exists():
                if not stat.S_ISSOCK(path.stat().st_mode):
                    raise CannotStart(
                        f"cannot listen on {path}: a file that is not a socket is there; name another path "
                        "(server.socket, --listen)"
                    )
                _refuse_if_answered(path)
                path.unlink()
            before = os.umask(PRIVATE)
            try:
                sock.bind(str(path))
            finally:
                os.umask(before)
            sock.listen(BACKLOG)  # within the lock: a bound socket that does not listen yet looks like a dead one
            undone.pop_all()
    except OSError as error:
        raise CannotStart(f"cannot listen on {path}: {error.strerror}") from error
    return sock


def _refuse_if_answered(path: Path) -> None:
    """Raises AlreadyRunning if a voxd listens at `path`; one that is too busy to accept counts as running."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except (BlockingIOError, TimeoutError):
            pass
        raise AlreadyRunning(f"voxd is already running at {path}")


def _bind_tcp(address: Tcp) -> socket.socket:
    """A listening socket.  Raises CannotStart with the address and the reason."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((address.host, address.port))
    except OSError as error:
        sock.close()
        where = f"{address.host}:{address.port}"
        taken = f"; ss -ltnp 'sport = :{address.port}' shows who uses it" if error.errno == errno.EADDRINUSE else ""
        raise CannotStart(f"cannot listen on {where}: {error.strerror}{taken} (see server.listen, --listen)") from error
    sock.listen(BACKLOG)
    return sock
