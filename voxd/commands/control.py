"""Talks to a running voxd through its control socket, for `voxd status`, `voxd stop` and `voxd tunnel`.

Not in the path.  It knows HTTP requests over a UNIX socket and process ids; not what the state of a daemon means.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from shared.config import client_socket
from shared.urls import CLIENT_SECRETS

ANSWER_S = 5.0  # a daemon that takes longer is busy
AGAIN_S = 0.02  # between two tries, while the queue of connections is full
LOOK_S = 0.05  # between two looks whether a process has ended


class NotRunning(Exception):
    """Nothing answers on the control socket, or something that is not a voxd."""


class Busy(NotRunning):
    """A daemon is there and does not answer in time: its queue of connections is full, or it is stuck."""


class ControlRefused(Exception):
    """voxd has refused the request; the text says why, for people."""


class ClientSecret(NamedTuple):
    """A key for TCP listeners.  `expires_at`: seconds of the Unix epoch."""

    value: str
    expires_at: int


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Tries again while the queue is full: a socket with a timeout is refused at once instead of waiting."""
        latest = time.monotonic() + (self.timeout or 0)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        while True:
            try:
                self.sock.connect(str(self._path))
            except BlockingIOError:
                if time.monotonic() > latest:
                    raise
                time.sleep(AGAIN_S)
            else:
                return


def status(path: Path, timeout_s: float = ANSWER_S) -> dict[str, object]:
    """What `/status` says.  Raises NotRunning, Busy; PermissionError if this user may not ask."""
    answer = _ask(path, timeout_s, "GET", "/status")
    if "error" in answer:  # it was turned away at the door, as one of too many
        raise Busy(f"voxd is running at {path}, but has turned this away: too many connections wait")
    return answer


def elsewhere(own: Path, environ: Mapping[str, str]) -> Path | None:
    """Where a voxd answers that clients find although it is not at `own`: the service of the machine, above all."""
    found = client_socket(environ)
    try:
        return found if found != own and status(found) else None
    except Busy:
        return found
    except (NotRunning, PermissionError):
        return None


def client_secret(path: Path, seconds: int, timeout_s: float = ANSWER_S) -> ClientSecret:
    """A new key, valid for so long.  Raises NotRunning, Refused; PermissionError if this user may not ask."""
    answer = _ask(path, timeout_s, "POST", CLIENT_SECRETS, json.dumps({"expires_after": {"seconds": seconds}}))
    match answer:
        case {"value": str(value), "expires_at": int(expires_at)}:
            return ClientSecret(value, expires_at)
        case {"error": {"message": str(message)}}:
            raise ControlRefused(message)
    raise NotRunning(f"what answers at {path} is no voxd")


def _ask(path: Path, timeout_s: float, method: str, page: str, body: str | None = None) -> dict[str, object]:
    connection = _UnixConnection(path, timeout_s)
    try:
        connection.request(method, page, body)
        answer = json.loads(connection.getresponse().read())
    except PermissionError:
        raise
    except (BlockingIOError, TimeoutError) as error:
        raise Busy(f"voxd is running at {path}, but has not answered within {timeout_s:.0f} s") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotRunning(f"no voxd answers at {path}") from error
    finally:
        connection.close()
    if not isinstance(answer, dict):
        raise NotRunning(f"what answers at {path} is no voxd")
    return answer


def ended(pid: int, seconds: float) -> bool:
    """Waits until that process has ended, for so long at most."""
    until = time.monotonic() + seconds
    while _alive(pid):
        if time.monotonic() > until:
            return False
        time.sleep(LOOK_S)
    return True


def _alive(pid: int) -> bool:
    """Whether that process runs; a zombie (ended, and not waited for by its parent) does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")
