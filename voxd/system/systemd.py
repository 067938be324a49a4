"""The two interfaces of systemd for daemons: reporting one's state (sd_notify) and taking over listening sockets.
Not in the path.

It uses the standard library only, and runs on systems without systemd too.  It knows environment variables and
sockets; not the daemon, engines or sessions.  It removes systemd's variables from the environment, so that no child
process can report in the daemon's name.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping
from dataclasses import dataclass

FIRST_FD = 3  # the descriptor of the first socket, as systemd defines it


@dataclass(frozen=True, slots=True)
class Supervisor:
    """The service manager that has started this process; without one `address` is None and every report does nothing.

    `watchdog_s`: a process that has not called `alive` for so long is restarted; None: never."""

    address: str | None = None
    watchdog_s: float | None = None

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Supervisor:
        """Reads it from the environment.  A watchdog that is meant for another process is ignored."""
        address = environ.pop("NOTIFY_SOCKET", "")
        interval, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        known = address.startswith(("/", "@")) and address not in ("/", "@")
        ours = known and interval.isdecimal() and int(interval) > 0 and pid in ("", str(os.getpid()))
        return cls(address if known else None, int(interval) / 1e6 if ours else None)

    def ready(self, status: str) -> None:
        self._tell(f"READY=1\nSTATUS={_line(status)}")

    def reloading(self, status: str) -> None:
        """Reports a reload, which lasts until `ready`.  The time is by the clock that sd_notify(3) names."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS={_line(status)}")

    def status(self, text: str) -> None:
        """Sets the text that `systemctl status` shows."""
        self._tell(f"STATUS={_line(text)}")

    def patience(self, seconds: float) -> None:
        """Asks for so many more seconds, from now on, to start or to stop."""
        self._tell(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def alive(self) -> None:
        self._tell("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        self._tell(f"STOPPING=1\nSTATUS={_line(status)}")

    def _tell(self, message: str) -> None:
        """Sends a report.  One that cannot be sent is dropped: no report is worth ending the daemon."""
        if self.address is None:
            return
        address = "\0" + self.address[1:] if self.address[0] == "@" else self.address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(message.encode(), address)


def _line(text: str) -> str:
    return " ".join(text.split())


def inherited(environ: MutableMapping[str, str]) -> tuple[socket.socket, ...]:
    """The listening sockets that systemd has opened for this process and keeps open while it restarts."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)  # the same for all sockets of a unit, so their addresses tell them apart
    if pid != str(os.getpid()) or not count.isdecimal():
        return ()
    return tuple(socket.socket(fileno=_private(number)) for number in range(FIRST_FD, FIRST_FD + int(count)))


def _private(number: int) -> int:
    os.set_inheritable(number, False)
    return number
