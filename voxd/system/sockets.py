"""Listening sockets: those that systemd hands over, and those that are opened here.

It knows addresses and who may open them; not what is served.
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

BACKLOG = (
    4096  # connections that the kernel keeps until they are accepted; as many as Linux allows unless told otherwise
)


class CannotStart(Exception):
    """A socket cannot be had; the text says which and why."""


class AlreadyRunning(Exception):
    """Another voxd answers on the control socket."""


class Listener(NamedTuple):
    """`kept`: it was there before this process and stays when it ends; who connects meanwhile waits.  `file`: what
    tells the file of a socket that was made here from any other."""

    address: Tcp | Path
    sock: socket.socket
    kept: bool = False
    file: tuple[int, int, int] | None = None


def handed_over(inherited: Sequence[socket.socket]) -> tuple[Listener, ...]:
    """Raises CannotStart for a socket that nobody can connect to."""
    return tuple(Listener(_address(sock), sock, kept=True) for sock in inherited)


def _address(sock: socket.socket) -> Tcp | Path:
    name = sock.getsockname()
    if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
        raise CannotStart(
            f"systemd handed over a socket that is no stream: {name!a} (see ListenStream= in voxd.socket)"
        )
    if sock.family != socket.AF_UNIX:
        return Tcp(name[0], name[1])
    if not isinstance(name, str) or not name.startswith("/"):
        raise CannotStart(f"systemd handed over a socket without a path: {name!a} (see ListenStream= in voxd.socket)")
    return Path(name)


def listeners(wanted: Sequence[Tcp | Path], kept: Sequence[Listener]) -> tuple[Listener, ...]:
    """One for each wanted address, in order, then whatever else was handed over.

    Raises AlreadyRunning, CannotStart."""
    there = {each.address: each for each in kept}
    chosen = list[Listener]()
    with contextlib.ExitStack() as undone:  # of those that could be had, if one cannot
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
    """Removes the files of sockets that end with this process; one that a successor has put in their place is his."""
    for each in given:
        if isinstance(each.address, Path) and each.file is not None:
            with _alone_in(each.address.parent), contextlib.suppress(FileNotFoundError):
                if _identity(each.address) == each.file:
                    each.address.unlink()


def _identity(path: Path) -> tuple[int, int, int]:
    """Device, inode, and when it was made: the number of an inode that is gone is given again at once."""
    found = path.stat(follow_symlinks=False)
    return found.st_dev, found.st_ino, found.st_mtime_ns


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """No other voxd makes or removes a socket there meanwhile: each looks first and acts then.  Where a folder cannot
    be locked, it goes on without."""
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
    return Listener(Tcp(address.host, sock.getsockname()[1]), sock)  # port 0 has become a number


def _bind_unix(path: Path) -> socket.socket:
    """A listening socket that only this user can open."""
    sock = socket.socket(socket.AF_UNIX)
    undone = contextlib.ExitStack()
    undone.callback(sock.close)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with undone, _alone_in(path.parent):
            if path.exists():
                if not stat.S_ISSOCK(path.stat().st_mode):
                    raise CannotStart(
                        f"cannot listen on {path}: it is there and no socket; name another (server.socket, --listen)"
                    )
                _refuse_if_answered(path)
                path.unlink()
            before = os.umask(0o177)
            try:
                sock.bind(str(path))
            finally:
                os.umask(before)
            sock.listen(BACKLOG)  # within the lock: a socket that is bound and does not listen looks like a dead one
            undone.pop_all()
    except OSError as error:
        raise CannotStart(f"cannot listen on {path}: {error.strerror}") from error
    return sock


def _refuse_if_answered(path: Path) -> None:
    """One whose queue is full, or who does not get round to it, is there all the same."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except (BlockingIOError, TimeoutError):
            pass
        raise AlreadyRunning(f"voxd is already running at {path}")


def _bind_tcp(address: Tcp) -> socket.socket:
    """Raises CannotStart with the address and the reason."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((address.host, address.port))
    except OSError as error:
        sock.close()
        where = f"{address.host}:{address.port}"
        taken = f"; ss -ltnp 'sport = :{address.port}' shows by whom" if error.errno == errno.EADDRINUSE else ""
        raise CannotStart(f"cannot listen on {where}: {error.strerror}{taken} (see server.listen, --listen)") from error
    sock.listen(BACKLOG)
    return sock
