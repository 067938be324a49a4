"""What systemd offers a daemon: it is told how the daemon is (sd_notify), and hands over listening sockets.

Standard library only, Linux or not.  It knows environment variables and sockets; not the daemon, engines or sessions.
Everything is taken out of the environment, so that no child speaks in the daemon's name.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping
from dataclasses import dataclass

FIRST_FD = 3  # where systemd puts the first socket


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Who started this process and wants to hear of it; nobody if `address` is None.

    `watchdog_s`: it restarts a process that has not called `alive` for so long."""

    address: str | None = None
    watchdog_s: float | None = None

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Supervisor:
        """As the environment says; a watchdog that is meant for another process is none."""
        address = environ.pop("NOTIFY_SOCKET", "")
        interval, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        known = address.startswith(("/", "@")) and address not in ("/", "@")
        ours = known and interval.isdecimal() and int(interval) > 0 and pid in ("", str(os.getpid()))
        return cls(address if known else None, int(interval) / 1e6 if ours else None)

    def ready(self, status: str) -> None:
        self._tell(f"READY=1\nSTATUS={_line(status)}")

    def reloading(self, status: str) -> None:
        """Until `ready` is said again.  The clock is the one that systemd compares with (sd_notify(3))."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS={_line(status)}")

    def status(self, text: str) -> None:
        """For `systemctl status`."""
        self._tell(f"STATUS={_line(text)}")

    def patience(self, seconds: float) -> None:
        """Starting or stopping may take so much longer, from now on."""
        self._tell(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def alive(self) -> None:
        self._tell("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        self._tell(f"STOPPING=1\nSTATUS={_line(status)}")

    def _tell(self, message: str) -> None:
        """Nothing here is worth an end of the daemon: a supervisor that cannot be reached is not told."""
        if self.address is None:
            return
        address = "\0" + self.address[1:] if self.address[0] == "@" else self.address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(message.encode(), address)


def _line(text: str) -> str:
    return " ".join(text.split())


def inherited(environ: MutableMapping[str, str]) -> tuple[socket.socket, ...]:
    """The listening sockets that systemd has opened for this process; they stay open while it restarts."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)  # all sockets of one unit have the same: their addresses tell them apart
    if pid != str(os.getpid()) or not count.isdecimal():
        return ()
    return tuple(socket.socket(fileno=_private(number)) for number in range(FIRST_FD, FIRST_FD + int(count)))


def _private(number: int) -> int:
    os.set_inheritable(number, False)
    return number
